//! Parsers of single values: numbers, durations, amounts of memory, Redis URLs, origins and passwords. `config` decides
//! which setting has which kind of value.
//!
//! Error messages of URLs and passwords never repeat the value, because it may be a password.

use super::tls;
use crate::redis::{Address, Credentials, MAX_HOST, MAX_SERVERS, RedisConfig, Servers};
use crate::system;
use crate::system::socket_file::{MAX_PATH, Rights};

/// Splits a comma-separated list and trims each member. Returns no member for an empty list.
pub(super) fn split_list(list: &str) -> Vec<String> {
    if list.is_empty() { Vec::new() } else { list.split(',').map(|member| member.trim_ascii().to_owned()).collect() }
}

/// Parses a whole number from `min` to `max`, without a sign.
pub(super) fn parse_number(text: &str, min: u64, max: u64) -> Option<u64> {
    // The standard library accepts a plus sign.
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.filter(|number| (min..=max).contains(number))
}

/// Parses a duration such as `500ms`, `5s` or `2m`. Returns milliseconds, from `min` to [`MAX_MILLIS`].
pub(super) fn parse_millis(text: &str, min: u64) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let millis = parse_number(amount, 0, MAX_MILLIS)? * unit;
    (min..=MAX_MILLIS).contains(&millis).then_some(millis)
}

/// Parses an amount of memory such as `6m`, `64m` or `1g`. Returns bytes; the units are 2^10, 2^20 and 2^30.
pub(super) fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let unit = ["", "k", "m", "g"].iter().position(|name| unit.eq_ignore_ascii_case(name))?;
    amount.parse::<usize>().ok()?.checked_mul(1 << (10 * unit))
}

/// Parses a port, also from the form `tcp://10.0.0.1:6379` that Kubernetes sets.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = if text.starts_with("tcp://") { split_last(text, b':')?.1 } else { text };
    parse_number(digits, 1, u16::MAX.into()).map(|port| port as u16)
}

/// Parses a URL of Redis: `redis://[user:password@]host[:port][/db]`,
/// `redis+sentinel://[user:password@]host[:port],.../NAME[/db]` or
/// `redis+cluster://[user:password@]host[:port],...[/db]`; with `rediss` in place of `redis`, over TLS; or
/// `unix://[user:password@]/path[?db=0]`.
///
/// # Errors
/// What is wrong with the URL.
pub(super) fn parse_redis_url(url: &str) -> Result<RedisConfig, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (scheme, tls) = match scheme.strip_prefix("rediss") {
        Some(kind) => (["redis", kind].concat(), Some(tls::required()?)),
        None => (scheme.to_owned(), None),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = split_last(authority, b'@').unwrap_or(("", authority));
    let (servers, db) = match &*scheme {
        "redis" => (Servers::Single(parse_address(hosts, REDIS_PORT)?), path),
        "redis+cluster" => (Servers::Cluster { seeds: parse_addresses(hosts, REDIS_PORT)? }, path),
        "redis+sentinel" => {
            let (name, db) = path.split_once('/').unwrap_or((path, ""));
            let (sentinels, name) = (parse_addresses(hosts, SENTINEL_PORT)?, parse_master_name(name)?);
            (Servers::Sentinel { sentinels, name, credentials: Credentials::default() }, db)
        }
        "unix" if hosts.is_empty() => {
            let (path, query) = rest[authority.len()..].split_once('?').unwrap_or((&rest[authority.len()..], ""));
            (Servers::Unix(parse_socket_path(path)?), parse_query(query)?)
        }
        "unix" => return Err("unix:// has no host: write unix:///PATH".to_owned()),
        _ => return Err("does not begin with redis://, unix://, redis+sentinel:// or redis+cluster://".to_owned()),
    };
    let (username, password) = user.split_once(':').unwrap_or(("", user));
    let credentials = Credentials { username: percent_decode(username)?, password: percent_decode(password)? };
    let db = if db.is_empty() { 0 } else { parse_number(db, 0, MAX_DB).ok_or("the database is not a number")? as u32 };
    Ok(RedisConfig { servers, credentials, db, acks: 0, tls })
}

/// Parses the path of a Unix socket in a URL.
fn parse_socket_path(path: &str) -> Result<String, &'static str> {
    let path = percent_decode(path)?.unwrap_or_default();
    if is_socket_path(&path) { Ok(path) } else { Err("the path of the socket is missing, or longer than 107 bytes") }
}

/// Returns the database in the query of a URL, empty if there is none. The name of another parameter is shown if it
/// looks like one: anything else may be a part of a password.
fn parse_query(query: &str) -> Result<&str, String> {
    let mut db = "";
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        if name != "db" {
            let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            return Err(["unknown parameter ", if is_name { name } else { "" }, ": only db is known"].concat());
        }
        db = value;
    }
    Ok(db)
}

/// Returns whether a text can be the path of a Unix socket: absolute, since other programs use the same path from other
/// folders, and not abstract, since an abstract socket has no mode.
pub(super) fn is_socket_path(path: &str) -> bool {
    path.len() <= MAX_PATH && path.starts_with('/') && !path.ends_with('/') && !path.contains(char::is_control)
}

/// Parses `MODE[:[USER:]GROUP]`: an octal mode, and numbers or names of the files passwd(5) and group(5).
pub(super) fn parse_rights(text: &str) -> Option<Rights> {
    let mut parts = text.split(':');
    let mode = parts.next().filter(|mode| mode.bytes().all(|byte| byte.is_ascii_digit()))?;
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= MAX_MODE)?;
    let (user, group) = match (parts.next(), parts.next(), parts.next()) {
        (group, None, _) => (None, group),
        (user, group, None) => (user, group),
        _ => return None,
    };
    let find = |file, name: Option<&str>| name.map_or(Some(None), |name| system::find_id(file, name).map(Some));
    Some(Rights { mode, user: find("/etc/passwd", user)?, group: find("/etc/group", group)? })
}

/// Parses a comma-separated list of `host[:port]`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_addresses(list: &str, port: u16) -> Result<Vec<Address>, &'static str> {
    let addresses = list.split(',').map(|address| parse_address(address.trim_ascii(), port));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    if addresses.len() > MAX_SERVERS { Err("more than 32 servers") } else { Ok(addresses) }
}

fn parse_address(address: &str, default_port: u16) -> Result<Address, &'static str> {
    if address.contains(',') {
        return Err("several hosts need redis+sentinel:// or redis+cluster://");
    }
    let (host, port) = split_host_port(address)?;
    if host.len() > MAX_HOST || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the host is longer than 255 bytes, or not printable ASCII");
    }
    let port = match port {
        Some(digits) => parse_port(digits).ok_or("the port is not a number from 1 to 65535")?,
        None => default_port,
    };
    Ok(Address { host: host.to_owned(), port })
}

/// Parses the name under which Sentinels monitor a primary.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_master_name(name: &str) -> Result<String, &'static str> {
    let is_valid = (1..=MAX_HOST).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_valid { Ok(name.to_owned()) } else { Err("the name of the primary is missing, or not printable ASCII") }
}

/// Splits `host[:port]`; an IPv6 address is in brackets.
fn split_host_port(address: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (host, port) = match address.strip_prefix('[') {
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        Some(rest) => match rest.split_once(']').ok_or("the closing bracket of the address is missing")? {
            (host, "") => (host, None),
            (host, rest) => {
                (host, Some(rest.strip_prefix(':').ok_or("the host is followed by text other than a port")?))
            }
        },
    };
    if host.is_empty() { Err("the host is missing") } else { Ok((host, port)) }
}

/// Splits a text at the last `separator`, an ASCII byte.
fn split_last(text: &str, separator: u8) -> Option<(&str, &str)> {
    text.bytes().rposition(|byte| byte == separator).map(|index| (&text[..index], &text[index + 1..]))
}

/// Returns whether a text is an origin as browsers send it: scheme, host, and the port unless it is the default one,
/// without capitals (HTML standard, "serialization of an origin"). Any other text would never match.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let Some(Ok((host, port))) = rest.strip_prefix("//").map(split_host_port) else { return false };
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-._:".contains(&byte);
    let is_port = match (scheme, port) {
        (_, None) => true,
        ("https", Some("443")) | ("http", Some("80")) => false,
        (_, Some(port)) => !port.starts_with('0') && parse_number(port, 1, u16::MAX.into()).is_some(),
    };
    text.len() <= MAX_ORIGIN && !scheme.is_empty() && scheme.bytes().chain(host.bytes()).all(is_allowed) && is_port
}

/// Decodes percent-encoding (RFC 3986 section 2.1). Returns `None` for an empty text.
fn percent_decode(text: &str) -> Result<Option<String>, &'static str> {
    const INVALID: &str = "a percent sign is not followed by two hexadecimal digits of UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or(INVALID);
                ((digit(high)? * 16 + digit(low)?) as u8, tail)
            }
            (b'%', _) => return Err(INVALID),
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    let text = String::from_utf8(bytes).map_err(|_| INVALID)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Parses the password in the content of a variable or file, without the line ends that an editor adds.
///
/// # Errors
/// What is wrong with it. Content that another program might read as a different password is rejected. `notch-redis`
/// has the same rule (`secret` in redis/notch-redis).
pub(super) fn parse_password(content: Vec<u8>) -> Result<String, &'static str> {
    if content.len() > MAX_PASSWORD {
        return Err("is longer than 16384 bytes");
    }
    let mut text = String::from_utf8(content).map_err(|_| "is not UTF-8")?;
    while let Some(line) = text.strip_suffix('\n') {
        let length = line.strip_suffix('\r').unwrap_or(line).len();
        text.truncate(length);
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = text.as_bytes();
    if text.starts_with('\u{feff}') {
        Err("begins with a byte order mark")
    } else if text.is_empty() {
        Err("is empty")
    } else if bytes.contains(&b'\n') {
        Err("has more than one line")
    } else if is_blank(bytes.first()) || is_blank(bytes.last()) {
        Err("begins or ends with a space or tab")
    } else if text.contains(char::is_control) {
        Err("contains a control character")
    } else {
        Ok(text)
    }
}

/// Port of Redis, and of a node of a cluster, if none is set.
pub(super) const REDIS_PORT: u16 = 6379;

/// Port of a Sentinel if none is set.
pub(super) const SENTINEL_PORT: u16 = 26379;

/// Longest origin in bytes; a host name has 253 at most.
pub(super) const MAX_ORIGIN: usize = 280;

/// Highest database number that Redis can be configured to have.
pub(super) const MAX_DB: u64 = i32::MAX as u64;

/// Longest password in bytes: Redis accepts no longer argument from a client that has not authenticated.
pub(super) const MAX_PASSWORD: usize = 16384;

/// All rights of all users, and no other bit.
const MAX_MODE: u32 = 0o777;

/// Longest duration: 24 hours.
const MAX_MILLIS: u64 = 24 * 60 * 60 * 1000;
