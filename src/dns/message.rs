//! Messages of the DNS: encodes queries, decodes replies, and checks which query a reply belongs to (RFC 1035).

use std::net::IpAddr;

use super::MAX_ADDRESSES;

/// Encodes a query for the records of type `kind`, [`A`] or [`AAAA`] (RFC 1035, section 4.1). Returns `None` if `host`
/// is not a valid host name: a label has 1 to 63 bytes, a name at most 253.
#[must_use]
pub fn encode_query(id: u16, host: &[u8], kind: u8) -> Option<Vec<u8>> {
    if host.len() > MAX_NAME {
        return None;
    }
    let mut query = Vec::with_capacity(HEADER + host.len() + 6);
    query.extend(id.to_be_bytes());
    // Recursion desired; one question, and no records.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.split(|&byte| byte == b'.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL).contains(length))?;
        query.push(length);
        query.extend(label);
    }
    query.extend([0, 0, kind, 0, INTERNET]);
    Some(query)
}

/// The meaning of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// It does not belong to the query; the right reply may still arrive.
    Foreign,
    /// The name exists; its addresses, if any, were added.
    Exists,
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// The reply was truncated before its first address (RFC 1035, section 4.2.1).
    Truncated,
    /// The server failed temporarily (SERVFAIL).
    Failed,
    /// The server does not resolve the name: it refuses the query, does not support it, or refers to other servers.
    Refused,
}

/// Decodes `message` as the reply to `query` and adds its addresses to `found`, up to [`MAX_ADDRESSES`]. Aliases are
/// not followed: a recursive name server includes the addresses to which they lead.
pub fn decode_reply(message: &[u8], query: &[u8], found: &mut Vec<IpAddr>) -> ReplyKind {
    let Some((header, rest)) = message.split_first_chunk::<HEADER>() else { return ReplyKind::Foreign };
    let [flags, more_flags] = [header[2], header[3]];
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let [questions, records, _, additional] = [4, 6, 8, 10].map(count);
    let question = &query[HEADER..];
    let is_echoed = rest.get(..question.len()).is_some_and(|echo| echo.eq_ignore_ascii_case(question));
    let code = more_flags & CODE;
    // A server that failed may leave the question out.
    let is_ours =
        header.starts_with(&query[..2]) && (is_echoed || questions == 0 && !matches!(code, SUCCESS | NO_NAME));
    if !is_ours || flags & OPERATION != RESPONSE {
        return ReplyKind::Foreign;
    }
    match code {
        SUCCESS => {}
        NO_NAME => return ReplyKind::NoName,
        FAILURE => return ReplyKind::Failed,
        _ => return ReplyKind::Refused,
    }
    let before = found.len();
    let mut rest = &rest[question.len()..];
    let mut is_whole = flags & TRUNCATED == 0;
    for _ in 0..records {
        let Some((address, after)) = decode_record(rest) else {
            is_whole = false;
            break;
        };
        found.extend(address.filter(|new| found.len() < MAX_ADDRESSES && !found.contains(new)));
        rest = after;
    }
    // The server has no record and does not recurse: this is at best a referral to other servers.
    let is_lame = flags & AUTHORITATIVE == 0 && more_flags & RECURSIVE == 0 && records == 0 && additional == 0;
    match () {
        () if found.len() > before => ReplyKind::Exists,
        () if !is_whole => ReplyKind::Truncated,
        () if is_lame => ReplyKind::Refused,
        () => ReplyKind::Exists,
    }
}

/// Decodes one record (RFC 1035, section 4.1.3). Returns its address, if it has one, and the bytes after it. Returns
/// `None` if it is truncated.
fn decode_record(bytes: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    // Type, class, TTL, and the length of the data.
    let (&[type_high, kind, class_high, class, _, _, _, _, high, low], rest) = skip_name(bytes)?.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    let address = match ([class_high, class], [type_high, kind]) {
        ([0, INTERNET], [0, A]) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        ([0, INTERNET], [0, AAAA]) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    };
    Some((address, rest))
}

/// Returns the bytes after a name, which ends with an empty label or with a pointer to the rest of the name (RFC 1035,
/// section 4.1.4).
fn skip_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, rest) = bytes.split_first()?;
        match length {
            0 => return Some(rest),
            0xc0.. => return rest.get(1..),
            64.. => return None,
            _ => bytes = rest.get(usize::from(length)..)?,
        }
    }
}

/// The record type of IPv4 addresses (RFC 1035, section 3.2.2).
pub const A: u8 = 1;

/// The record type of IPv6 addresses (RFC 3596, section 2.1).
pub const AAAA: u8 = 28;

/// Most bytes read of a reply, over UDP or TCP: enough for more than [`MAX_ADDRESSES`]. The rest of a longer reply is
/// ignored.
pub const MAX_REPLY: usize = 4096;

/// Longest name in bytes (RFC 1035, section 2.3.4), in its form with dots.
const MAX_NAME: usize = 253;

/// Longest label of a name in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL: u8 = 63;

/// Flags in the third byte of a message (RFC 1035, section 4.1.1): the response to a standard query, authoritative,
/// truncated.
const OPERATION: u8 = 0xf8;
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 4;
const TRUNCATED: u8 = 2;

/// Flags in the fourth byte: recursion is available; and the response code.
const RECURSIVE: u8 = 0x80;
const CODE: u8 = 0xf;
const SUCCESS: u8 = 0;
const FAILURE: u8 = 2;
const NO_NAME: u8 = 3;

/// Length of the header, before the question, in bytes.
pub(super) const HEADER: usize = 12;

/// The class of all queries (RFC 1035, section 3.2.4).
const INTERNET: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_ascii_whitespace().map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn queries_are_encoded_as_in_the_rfc() {
        let redis = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05redis\x03org\0\0\x1c\0\x01";
        assert_eq!(encode_query(0x1234, b"redis.org", AAAA).as_deref(), Some(&redis[..]));
        for (host, is_valid) in [
            ("a".repeat(63), true),
            ("a".repeat(64), false),
            (["a"; 127].join("."), true),
            (["a"; 128].join("."), false),
            (String::new(), false),
            ("a..b".to_owned(), false),
            (".a".to_owned(), false),
            ("a.".to_owned(), false),
        ] {
            assert_eq!(encode_query(0, host.as_bytes(), A).is_some(), is_valid, "{host}");
        }
    }

    /// Returns the header of a reply to `query`, with its two bytes of flags and number of records, and the question.
    fn header(query: &[u8], flags: [u8; 2], records: u8) -> Vec<u8> {
        [&query[..2], &flags, &[0, 1, 0, records, 0, 0, 0, 0], &query[HEADER..]].concat()
    }

    const CNAME: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03www\xc0\x0c";
    const ADDRESS: &[u8] = b"\x03www\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x09";
    const ADDRESS6: &[u8] = b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    const CHAOS: &[u8] = b"\xc0\x0c\0\x01\0\x03\0\0\0\x3c\0\x04\x0a\0\0\x08";
    const SHORT: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x03\x0a\0\0";

    const OTHER_TYPE: &[u8] = b"\xc0\x0c\x01\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x08";
    const RESERVED: &[u8] = b"\x40\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x09";

    #[test]
    fn replies_are_decoded_up_to_their_end() {
        let query = encode_query(7, b"redis", A).expect("a valid name");
        for (flags, records, sections, kind, addresses) in [
            ([0x81, 0x80], 1, vec![ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            ([0x81, 0x80], 2, vec![CNAME, ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            ([0x81, 0x80], 2, vec![ADDRESS6, ADDRESS], ReplyKind::Exists, "fd00::1 10.0.0.9"),
            ([0x81, 0x80], 0, vec![], ReplyKind::Exists, ""),
            ([0x81, 0x80], 3, vec![CHAOS, SHORT, ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            ([0x81, 0x80], 3, vec![ADDRESS, CNAME, ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            ([0x81, 0x80], 1, vec![OTHER_TYPE], ReplyKind::Exists, ""),
            // Records beyond the announced number are ignored; missing ones are not waited for.
            ([0x81, 0x80], 1, vec![ADDRESS, ADDRESS6], ReplyKind::Exists, "10.0.0.9"),
            ([0x83, 0x80], 9, vec![ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            ([0x83, 0x80], 9, vec![CNAME], ReplyKind::Truncated, ""),
            ([0x83, 0x80], 0, vec![], ReplyKind::Truncated, ""),
            ([0x81, 0x80], 2, vec![CNAME], ReplyKind::Truncated, ""),
            ([0x81, 0x80], 1, vec![RESERVED], ReplyKind::Truncated, ""),
            ([0x81, 0x83], 0, vec![], ReplyKind::NoName, ""),
            ([0x83, 0x83], 0, vec![], ReplyKind::NoName, ""),
            ([0x81, 0x82], 0, vec![], ReplyKind::Failed, ""),
            ([0x81, 0x85], 0, vec![], ReplyKind::Refused, ""),
            ([0x81, 0x81], 0, vec![], ReplyKind::Refused, ""),
            // A server that is not authoritative and does not recurse.
            ([0x81, 0x00], 0, vec![], ReplyKind::Refused, ""),
            ([0x85, 0x00], 0, vec![], ReplyKind::Exists, ""),
            ([0x81, 0x00], 1, vec![ADDRESS], ReplyKind::Exists, "10.0.0.9"),
            // A query, and the response to something other than a query.
            ([0x01, 0x00], 1, vec![ADDRESS], ReplyKind::Foreign, ""),
            ([0xa1, 0x80], 1, vec![ADDRESS], ReplyKind::Foreign, ""),
        ] {
            let reply = [header(&query, flags, records), sections.concat()].concat();
            let mut found = Vec::new();
            assert_eq!(decode_reply(&reply, &query, &mut found), kind, "{reply:?}");
            assert_eq!(found, ips(addresses), "{reply:?}");
        }
    }

    #[test]
    fn replies_to_other_queries_are_foreign() {
        let query = encode_query(7, b"redis", A).expect("a valid name");
        let valid = [&*header(&query, [0x81, 0x80], 1), ADDRESS].concat();
        let at = |index: usize, byte: u8| {
            let mut reply = valid.clone();
            reply[index] = byte;
            reply
        };
        for (reply, kind) in [
            (at(0, 1), ReplyKind::Foreign),
            (at(1, 8), ReplyKind::Foreign),
            (at(HEADER + 1, b'R'), ReplyKind::Exists),
            (at(HEADER + 1, b'x'), ReplyKind::Foreign),
            (at(HEADER + 8, 28), ReplyKind::Foreign),
            (valid[..2].to_vec(), ReplyKind::Foreign),
            (Vec::new(), ReplyKind::Foreign),
            // A server that failed may leave the question out, but does not repeat another one.
            ([&query[..2], &[0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]].concat(), ReplyKind::Failed),
            ([&query[..2], &[0x81, 0x85, 0, 0, 0, 0, 0, 0, 0, 0]].concat(), ReplyKind::Refused),
            ([&query[..2], &[0x81, 0x83, 0, 0, 0, 0, 0, 0, 0, 0]].concat(), ReplyKind::Foreign),
            ([&query[..2], &[0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0], b"\x01x\0\0\x01\0\x01"].concat(), ReplyKind::Foreign),
        ] {
            assert_eq!(decode_reply(&reply, &query, &mut Vec::new()), kind, "{reply:?}");
        }
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let query = encode_query(7, b"redis", A).expect("a valid name");
        let record = |n: u8| [&ADDRESS[..ADDRESS.len() - 1], &[n]].concat();
        let records: Vec<u8> = (0..200).flat_map(record).collect();
        let mut found = Vec::new();
        assert_eq!(
            decode_reply(&[header(&query, [0x81, 0x80], 200), records].concat(), &query, &mut found),
            ReplyKind::Exists
        );
        assert_eq!((found.len(), found[0], found[47]), (MAX_ADDRESSES, ips("10.0.0.0")[0], ips("10.0.0.47")[0]));
    }

    #[test]
    fn truncated_and_changed_replies_are_decoded_safely() {
        let query = encode_query(7, b"redis", A).expect("a valid name");
        let valid = [&*header(&query, [0x81, 0x80], 3), CNAME, ADDRESS, ADDRESS6].concat();
        for length in 0..valid.len() {
            let mut found = Vec::new();
            decode_reply(&valid[..length], &query, &mut found);
            assert!(ips("10.0.0.9 fd00::1").starts_with(&found), "{length}");
            for byte in 0..=255 {
                let mut changed = valid.clone();
                changed[length] = byte;
                found.clear();
                decode_reply(&changed, &query, &mut found);
                assert!(found.len() <= 3, "{changed:?}");
            }
        }
    }
}
