//! Host names to addresses, without the C library: its resolver is a tenth of the image and cannot be given a deadline.
//!
//! `message` encodes and decodes the messages of a stub resolver (RFC 1035); `files` parses the two files that
//! configure it; `lookup` decides which query to send to which server, and when. Left out on purpose is what resolving the host
//! of Redis does not need: EDNS, DNSSEC, caching, and sources other than the hosts file and name servers.

mod files;
mod lookup;
mod message;

pub use files::{
    Conf, ConfParser, Hosts, Interfaces, MAX_ADDRESSES, MAX_SEARCH, MAX_SERVERS, loopback_addresses, parse_address,
};
pub use lookup::{Failure, Lookup, Step};
pub use message::{A, AAAA, MAX_REPLY, ReplyKind, decode_reply, encode_query};
