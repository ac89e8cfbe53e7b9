//! The meaning of error replies.

use crate::counter::Rejection;

/// Returns the cause of an error reply, by how it begins. Redis up to 6.2 wraps errors that are raised within a script:
/// `ERR Error running script (call to f_…): @user_script:4: -READONLY You can't write against a read only replica.`
pub(super) fn rejection(line: &[u8]) -> Rejection {
    let mut line = line;
    while let Some(at) = line.windows(SCRIPT_POSITION.len()).position(|window| window == SCRIPT_POSITION)
        && let Some(error) = after_line_number(&line[at + SCRIPT_POSITION.len()..])
    {
        line = error;
    }
    let line = line.strip_prefix(b"ERR ").unwrap_or(line);
    let begins_with = |start: &str| matches!(line.strip_prefix(start.as_bytes()), Some([] | [b' ', ..]));
    ERRORS.iter().find(|(start, _)| begins_with(start)).map_or(Rejection::Other, |&(_, rejection)| rejection)
}

/// Returns what follows the line number of an error in a script, `:4: ` or `: 4: `.
fn after_line_number(position: &[u8]) -> Option<&[u8]> {
    let position = position.strip_prefix(b":")?.trim_ascii_start();
    let digits = position.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let error = position[digits..].strip_prefix(b": ")?;
    Some(error.strip_prefix(b"-").unwrap_or(error))
}

/// The start of the position of an error in a script.
const SCRIPT_POSITION: &[u8] = b"@user_script";

/// How error replies begin: with a code of their own, or with a sentence where Redis sends only `ERR`, which is left
/// out here.
const ERRORS: [(&str, Rejection); 29] = [
    ("MAXNAMES", Rejection::TooManyCounters),
    ("NOAUTH", Rejection::Password),
    ("WRONGPASS", Rejection::Password),
    ("AUTH", Rejection::Password),
    ("NOPERM", Rejection::Permission),
    ("The user executing the script", Rejection::Permission),
    ("ACL failure in script:", Rejection::Permission),
    ("NOSCRIPT", Rejection::NoScript),
    ("DENIED", Rejection::Protected),
    ("max number of clients reached", Rejection::MaxClients),
    ("DB index", Rejection::Database),
    ("invalid DB index", Rejection::Database),
    ("SELECT is not allowed in cluster mode", Rejection::Database),
    ("WRONGTYPE", Rejection::WrongType),
    ("value is not an integer or out of range", Rejection::NotANumber),
    ("increment or decrement would overflow", Rejection::Overflow),
    ("LOADING", Rejection::Loading),
    ("MISCONF", Rejection::CannotPersist),
    ("READONLY", Rejection::ReadOnly),
    ("UNBLOCKED", Rejection::ReadOnly),
    ("WAIT cannot be used with replica", Rejection::ReadOnly),
    ("OOM", Rejection::OutOfMemory),
    ("MASTERDOWN", Rejection::NoPrimary),
    ("NOREPLICAS", Rejection::NoReplicas),
    ("BUSY", Rejection::Busy),
    ("CLUSTERDOWN", Rejection::ClusterDown),
    ("TRYAGAIN", Rejection::Resharding),
    ("MOVED", Rejection::Moved),
    ("ASK", Rejection::Resharding),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_within_a_script_keep_their_cause() {
        const CALL: &str = "ERR Error running script (call to f_cf49228d90873fd38614ce7a84ca486dfc1ede32): ";
        for (error, expected) in [
            ("@user_script:4: -READONLY You can't write against a read only replica. ", Rejection::ReadOnly),
            (
                "@user_script:2: @user_script: 2: -READONLY You can't write against a read only replica.",
                Rejection::ReadOnly,
            ),
            ("@user_script:2: @user_script: 2: -OOM command not allowed when used memory > 'maxmemory'.", {
                Rejection::OutOfMemory
            }),
            ("@user_script:2: -MISCONF Redis is configured to save RDB snapshots", Rejection::CannotPersist),
            ("@user_script:2: -NOREPLICAS Not enough good replicas to write.", Rejection::NoReplicas),
            ("@user_script:3: WRONGTYPE Operation against a key holding the wrong kind of value", Rejection::WrongType),
            ("@user_script:2: @user_script: 2: The user executing the script can't run this command or subcommand", {
                Rejection::Permission
            }),
            ("@user_script:1: @user_script: 1: The user executing the script can't access at least one of the keys", {
                Rejection::Permission
            }),
            (
                "@user_script:1: @user_script: 1: Wrong number of args calling Redis command From Lua script",
                Rejection::Other,
            ),
            ("@user_script", Rejection::Other),
            ("@user_script:", Rejection::Other),
            ("@user_script:4", Rejection::Other),
            ("@user_script:4: ", Rejection::Other),
            ("READONLY", Rejection::Other),
        ] {
            assert_eq!(rejection(format!("{CALL}{error}").as_bytes()), expected, "{error}");
        }
        assert_eq!(rejection(b"READONLY You can't write. script: 9dc3, on @user_script:4."), Rejection::ReadOnly);
        assert_eq!(rejection(b"MAXNAMES"), Rejection::TooManyCounters);
        assert_eq!(rejection(b"ERR MAXNAMES"), Rejection::TooManyCounters);
    }
}
