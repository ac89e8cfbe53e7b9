//! A name server that answers anything at all, and files that say anything at all.
//!
//! - Addresses come from a datagram that answers our question, and from no other; none is made up.
//! - A datagram that was cut short gives the first of those that the whole one gives.
//! - Names to be tried begin or end with the one that was asked for, and there is always a server to ask.

use std::net::IpAddr;

use notch::dns::{self, A, AAAA, Conf, MAX_SERVERS, Verdict};

/// Who is looked for.
const HOST: &str = "redis.example";

/// `data` is what follows the number and the question in a datagram, from its flags on; and it is the text of a file.
pub fn holds(data: &[u8]) {
    for kind in [A, AAAA] {
        let query = dns::query(ID, HOST, kind).expect("a good name");
        let (flags, records) = data.split_at(data.len().min(HEAD - 2));
        let datagram = [&query[..2], flags, &query[HEAD..], records].concat();
        for (ours, datagram) in [(true, &datagram[..]), (false, data)] {
            reads(datagram, &query, ours);
        }
    }
    files(&String::from_utf8_lossy(data));
}

fn reads(datagram: &[u8], query: &[u8], ours: bool) {
    let read = |datagram: &[u8]| {
        let mut found = Vec::new();
        let verdict = dns::reply(datagram, query, &mut found);
        assert!(verdict == Verdict::Exists || found.is_empty(), "addresses of nobody");
        (verdict, found)
    };
    let (verdict, whole) = read(datagram);
    assert!(ours || datagram.starts_with(&query[..2]) || verdict == Verdict::Foreign, "somebody else's answer");
    for address in &whole {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        assert!(datagram.windows(bytes.len()).any(|window| window == bytes), "an address that nobody named");
    }
    for end in (0..datagram.len()).step_by(datagram.len() / 100 + 1) {
        let (_, found) = read(&datagram[..end]);
        assert!(whole.starts_with(&found), "half a datagram says something else");
    }
}

fn files(text: &str) {
    let conf = Conf::parse(text);
    assert!((1..=MAX_SERVERS).contains(&conf.servers.len()));
    let names = conf.candidates(HOST);
    assert!(names.iter().all(|name| name.starts_with(HOST)) && names.iter().any(|name| name == HOST));
    let listed = dns::listed(text, HOST);
    assert!(listed.is_empty() || text.to_ascii_lowercase().contains(HOST), "listed under another name");
    for word in text.split_whitespace() {
        let known = dns::known(word);
        assert!(known.len() <= 2);
        if let Some(query) = dns::query(ID, word, A) {
            assert!(word.len() <= 253 && query.len() == HEAD + word.len() + 6);
        }
    }
}

/// The number of the question.
const ID: u16 = 0x1234;

/// Bytes in front of the question.
const HEAD: usize = 12;
