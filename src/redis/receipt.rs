//! Receipts: idempotency records that make it safe to send an increment twice.
//!
//! `INCRBY` alone must not be sent again after its reply was lost, because it may have been applied. So a script
//! increments the counter and, in the same atomic step, writes a **receipt**: the sequence number of the batch and the
//! total before the increment, under a key of its own for each producer and counter. If the batch is sent again, by any
//! session of the same producer, the script finds its sequence number in the receipt, counts nothing and returns the
//! same total. A sequence number below the one in the receipt belongs to a connection that was given up, whose bytes
//! Redis reads late; it counts nothing either.

use std::time::Duration;

use crate::counter::{Command, Counters, Key, NameLimit, Names};
use crate::decimal::Decimal;
use crate::resp;

/// Identifies the sender of batches in receipts: the same for all sessions of one worker, and unique otherwise.
#[derive(Clone, Copy)]
pub struct Producer {
    /// A unique number.
    pub id: u64,
    /// How long a batch may be sent again after it was sent first.
    pub retry_window: Duration,
    /// The limit of named counters, if clients choose their names.
    pub name_limit: Option<NameLimit>,
}

/// Whether a batch whose reply was lost may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipts {
    /// Yes: its receipt shows whether it was counted.
    Kept,
    /// No: Redis runs no scripts for this user, or rejects the keys of receipts.
    Refused,
    /// No: Redis may evict receipts, or does not show whether it may.
    Evictable,
}

impl Producer {
    /// Returns the limit that applies to `command`: only increments of named counters have one.
    pub(super) fn limit_of(&self, command: &Command) -> Option<&NameLimit> {
        self.name_limit.as_ref().filter(|limit| command.is_increment() && command.key() != Some(&limit.main))
    }
}

/// Returns how many arguments [`write_arguments`] appends.
fn argument_count(has_limit: bool, has_floor: bool) -> usize {
    match (has_limit, has_floor) {
        (_, true) => 4,
        (true, false) => 3,
        (false, false) => 2,
    }
}

/// Appends the arguments that follow [`increment_prefix`]: the sequence number of the batch, the visits and, under a
/// limit, the most names; then the floor, if there is one.
pub(super) fn write_arguments(
    out: &mut Vec<u8>,
    sequence: i64,
    by: i64,
    limit: Option<&NameLimit>,
    floor: Option<i64>,
) {
    resp::write_argument(out, &Decimal::new(SEQUENCE_BASE + sequence));
    resp::write_argument(out, &Decimal::new(by));
    if limit.is_some() || floor.is_some() {
        resp::write_argument(out, &Decimal::new(limit.map_or(0, |limit| limit.most as i64)));
    }
    if let Some(floor) = floor {
        resp::write_argument(out, &Decimal::new(floor));
    }
}

/// Returns the start of the command that runs [`SCRIPT`] for `key`: all arguments that are the same in each batch.
/// `command` is `EVALSHA` or `EVAL`; `script` is the digest or the script.
pub(super) fn increment_prefix(
    [command, script]: [&[u8]; 2],
    key: &Key,
    limit: Option<&NameLimit>,
    has_floor: bool,
    producer: &Producer,
) -> Vec<u8> {
    let expiry = Decimal::new((producer.retry_window + RECEIPT_GRACE).as_millis() as i64);
    let id = Decimal::new((producer.id >> 1) as i64);
    let receipt = receipt_key(key.as_bytes(), &id);
    // No counter can have this key, because a `Key` has no angle brackets.
    let names = limit.map(|limit| [b"{", hash_tag(limit.main.as_bytes()), b"}:<names>"].concat());
    // The command, the script and the number of keys precede the keys, the expiry follows them.
    let (number_of_keys, count) = if limit.is_some() { (b"3", 3 + 3 + 1) } else { (b"2", 3 + 2 + 1) };
    let count = count + argument_count(limit.is_some(), has_floor);
    let mut prefix = Vec::new();
    resp::write_command_prefix(&mut prefix, count, &[command, script, number_of_keys, key.as_bytes(), &receipt]);
    names.iter().for_each(|names| resp::write_argument(&mut prefix, names));
    resp::write_argument(&mut prefix, &expiry);
    prefix
}

/// Returns the key of the receipt of a counter, in the counter's slot. Counters with one hash tag have receipts of
/// their own: a batch has one number for all its counters.
fn receipt_key(counter: &[u8], id: &[u8]) -> Vec<u8> {
    let tag = hash_tag(counter);
    let mut key = [b"{", tag, b"}:receipt:", id].concat();
    if tag != counter {
        key.extend_from_slice(b":");
        key.extend_from_slice(counter);
    }
    key
}

/// Returns whether all keys of these counters are in one slot of a cluster, those of their receipts included. Compares
/// hash tags, which determine the slots.
#[must_use]
pub fn is_one_slot(counters: &Counters) -> bool {
    let tag = hash_tag(counters.main.as_bytes());
    let named = [counters.main.as_bytes(), b":"].concat();
    let has_names = !matches!(&counters.names, Names::List(names) if names.is_empty());
    // The receipt's tag is the same unless the key contains a closing brace.
    !tag.contains(&b'}') && (!has_names || hash_tag(&named) == tag)
}

/// Returns the part of a key that determines its slot in a cluster: the content of the first pair of braces if it is
/// not empty, otherwise the whole key (Redis cluster specification, hash tags).
fn hash_tag(key: &[u8]) -> &[u8] {
    let after = |byte| key.iter().position(|&other| other == byte).map(|at| &key[at + 1..]);
    let tag = after(b'{').and_then(|rest| rest.split(|&byte| byte == b'}').next().filter(|tag| tag.len() < rest.len()));
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Counts visits once. Keys: the counter, its receipt, and for a counter under a [`NameLimit`] the set of names.
/// Arguments: the expiry of the receipt in milliseconds, the sequence number of the batch in sixteen digits, the number
/// of visits; under a limit the most names; and the floor, to which the counter is raised first. Returns the total
/// before the increment as text, since Lua's numbers have 53 bits. The floor is compared as text too, and added by
/// `INCRBY`.
///
/// The receipt is written first, so that a store that rejects writes does so before anything is counted. If the name or
/// the increment is rejected, the previous receipt is restored. An increment of 0 creates no counter.
///
/// A batch that is repeated writes its receipt again, since `WAIT` only waits for writes of its own connection.
pub(super) const SCRIPT: &[u8] = b"\
local r=redis.call('GET',KEYS[2])or''
if r>=ARGV[2]then redis.call('SET',KEYS[2],r,'PX',ARGV[1])return r:sub(18)end
local b=redis.call('GET',KEYS[1])
local new=KEYS[3]and not b and redis.call('SISMEMBER',KEYS[3],KEYS[1])==0
if new and redis.call('SCARD',KEYS[3])>=tonumber(ARGV[4])then return redis.error_reply('MAXNAMES')end
local o,f=b or'0',ARGV[5]
local neg=o:find('^%-')
if f and not((o=='0'or o:find('^%-?[1-9]%d*$'))and(neg or #o<#f or #o==#f and o<f))then f=nil end
redis.call('SET',KEYS[2],ARGV[2]..' '..(f or o),'PX',ARGV[1])
if not(b or f)and ARGV[3]=='0'then return o end
local n=new and redis.pcall('SADD',KEYS[3],KEYS[1])
for _,by in ipairs(f and{o=='0'and o or neg and o:sub(2)or'-'..o,f,ARGV[3]}or{ARGV[3]})do
if type(n)~='table'then n=redis.pcall('INCRBY',KEYS[1],by)end end
if type(n)~='table'then return f or o end
redis.call('SET',KEYS[2],r,'PX',ARGV[1])
if new then redis.pcall('SREM',KEYS[3],KEYS[1])end
return n";

/// Added to the sequence number of a batch, so that all have sixteen digits and compare as text.
const SEQUENCE_BASE: i64 = 1_000_000_000_000_000;

/// How much longer than its batch may be sent again a receipt is kept: so long may bytes of a connection that was given
/// up still reach Redis.
const RECEIPT_GRACE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_in_the_slot_of_its_counter() {
        for (key, tag) in [
            ("visits", "visits"),
            ("{shop}visits", "shop"),
            ("a{b}{c}", "b"),
            ("{}visits", "{}visits"),
            ("a{b", "a{b"),
            ("{{a}", "{a"),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
        }
    }

    #[test]
    fn counters_in_one_slot_have_receipts_of_their_own() {
        for (counter, receipt) in [
            ("visits", "{visits}:receipt:42"),
            ("visits:a", "{visits:a}:receipt:42"),
            ("{visits}", "{visits}:receipt:42:{visits}"),
            ("{visits}:a", "{visits}:receipt:42:{visits}:a"),
        ] {
            assert_eq!(receipt_key(counter.as_bytes(), b"42"), receipt.as_bytes(), "{counter}");
            assert_eq!(hash_tag(receipt.as_bytes()), hash_tag(counter.as_bytes()), "{counter}");
        }
    }

    #[test]
    fn counters_are_in_one_slot_if_their_keys_have_one_tag() {
        for (key, with_names, alone) in [
            ("visits", false, true),
            ("{visits}", true, true),
            ("shop:{visits}.total", true, true),
            ("{}visits", false, false),
            ("a}b", false, false),
            ("a{b", false, true),
        ] {
            let main = Key::new(key.as_bytes()).expect("a valid key");
            for (names, expected) in [
                (Names::Any, with_names),
                (Names::List(vec!["blog".to_owned()]), with_names),
                (Names::List(Vec::new()), alone),
            ] {
                assert_eq!(is_one_slot(&Counters { main, names }), expected, "{key}");
            }
        }
    }
}
