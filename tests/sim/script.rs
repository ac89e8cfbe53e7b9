//! A model of our script (`redis::receipt::SCRIPT`), and of the commands that it calls: the same replies, and the same
//! keys afterwards. tests/failover compares it with the script on real servers.

use std::collections::BTreeSet;

/// A key and what is stored there, `None` if it is deleted.
pub(crate) type Write = (Vec<u8>, Option<Value>);

/// What is stored at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) content: Content,
    /// The time from which on the key does not exist.
    pub(crate) expires: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(Vec<u8>),
    Set(BTreeSet<Vec<u8>>),
}

impl Value {
    /// Creates a string without an expiry.
    pub(crate) fn text(text: &[u8]) -> Self {
        Self { content: Content::Text(text.to_vec()), expires: None }
    }
}

/// Parts of the script that a test can turn off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// It writes the receipt again when a batch is repeated.
    pub(crate) rewrites_receipts: bool,
    /// It raises the counter to the floor.
    pub(crate) has_floor: bool,
}

/// The result of a call.
pub(crate) struct Outcome {
    pub(crate) reply: Result<Vec<u8>, &'static str>,
    /// What it has written, in one transaction.
    pub(crate) writes: Vec<Write>,
    pub(crate) kind: Kind,
}

/// What a call has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has incremented the counter, or was rejected.
    First,
    /// It has raised the counter to the floor before.
    Raised,
    /// The receipt of the same batch.
    Repeated,
    /// The receipt of a later batch.
    Late,
    /// There are as many names as allowed.
    LimitReached,
}

/// Calls the script with these keys and arguments: counter, receipt and perhaps the set of names; expiry, sequence
/// number, visits, most names, floor. `get` returns what is stored at a key now, and `expires` is when the receipt will
/// expire.
pub(crate) fn call(
    get: impl Fn(&[u8]) -> Option<Value>,
    keys: &[&[u8]],
    arguments: &[&[u8]],
    expires: u64,
    rules: Rules,
) -> Outcome {
    let mut writes = Vec::new();
    let mut kind = Kind::First;
    let reply = run(&get, keys, arguments, expires, rules, &mut writes, &mut kind);
    Outcome { reply, writes, kind }
}

fn run(
    get: &dyn Fn(&[u8]) -> Option<Value>,
    keys: &[&[u8]],
    arguments: &[&[u8]],
    expires: u64,
    rules: Rules,
    writes: &mut Vec<Write>,
    kind: &mut Kind,
) -> Result<Vec<u8>, &'static str> {
    let [counter, receipt, names @ ..] = keys else { panic!("a counter and its receipt: {keys:?}") };
    let [_, sequence, by, rest @ ..] = arguments else { panic!("three arguments: {arguments:?}") };
    let receipt_with =
        |text: &[u8]| (receipt.to_vec(), Some(Value { content: Content::Text(text.to_vec()), expires: Some(expires) }));
    let last = text_of(get(receipt))?.unwrap_or_default();
    if last.as_slice() >= *sequence {
        *kind = if last.starts_with(sequence) { Kind::Repeated } else { Kind::Late };
        if rules.rewrites_receipts {
            writes.push(receipt_with(&last));
        }
        return Ok(last.get(RECEIPT_TOTAL..).unwrap_or_default().to_vec());
    }
    let stored = text_of(get(counter))?;
    let mut new_names = None;
    if let (Some(names), None) = (names.first(), &stored) {
        let mut members = members_of(get(names))?;
        if !members.contains(*counter) {
            if members.len() >= rest[0].iter().fold(0, |most, digit| most * 10 + usize::from(digit - b'0')) {
                *kind = Kind::LimitReached;
                return Err("MAXNAMES");
            }
            members.insert(counter.to_vec());
            new_names = Some((names.to_vec(), Some(Value { content: Content::Set(members), expires: None })));
        }
    }
    let before = stored.clone().unwrap_or_else(|| b"0".to_vec());
    let floor = rest.get(1).filter(|floor| rules.has_floor && is_below(&before, floor));
    let reply = floor.map_or(&before[..], |floor| floor).to_vec();
    if stored.is_none() && floor.is_none() && *by == b"0" {
        writes.push(receipt_with(&[sequence, &b" "[..], &reply].concat()));
        return Ok(reply);
    }
    let mut total = stored.clone();
    let mut increments = Vec::new();
    if let Some(floor) = floor {
        *kind = Kind::Raised;
        increments.push(match before.strip_prefix(b"-") {
            _ if before == b"0" => before.clone(),
            Some(digits) => digits.to_vec(),
            None => [b"-", &before[..]].concat(),
        });
        increments.push(floor.to_vec());
    }
    increments.push(by.to_vec());
    let result = increments.iter().try_for_each(|by| increment(&mut total, by));
    if total != stored {
        writes.push((counter.to_vec(), total.as_deref().map(Value::text)));
    }
    match result {
        Ok(()) => {
            writes.push(receipt_with(&[sequence, &b" "[..], &reply].concat()));
            writes.extend(new_names);
            Ok(reply)
        }
        // The name is removed again.
        Err(error) => {
            writes.push(receipt_with(&last));
            Err(error)
        }
    }
}

/// `GET`.
fn text_of(value: Option<Value>) -> Result<Option<Vec<u8>>, &'static str> {
    match value.map(|value| value.content) {
        None => Ok(None),
        Some(Content::Text(text)) => Ok(Some(text)),
        Some(Content::Set(_)) => Err(WRONG_TYPE),
    }
}

/// `SMEMBERS`.
fn members_of(value: Option<Value>) -> Result<BTreeSet<Vec<u8>>, &'static str> {
    match value.map(|value| value.content) {
        None => Ok(BTreeSet::new()),
        Some(Content::Set(members)) => Ok(members),
        Some(Content::Text(_)) => Err(WRONG_TYPE),
    }
}

/// `INCRBY`.
fn increment(total: &mut Option<Vec<u8>>, by: &[u8]) -> Result<(), &'static str> {
    let by = integer(by).ok_or(NOT_AN_INTEGER)?;
    let before = total.as_deref().map_or(Some(0), integer).ok_or(NOT_AN_INTEGER)?;
    let sum = before.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    *total = Some(sum.to_string().into_bytes());
    Ok(())
}

/// Returns whether this is an integer, as the script recognizes one, and less than the floor.
fn is_below(total: &[u8], floor: &[u8]) -> bool {
    let digits = total.strip_prefix(b"-").unwrap_or(total);
    let is_integer = digits.iter().all(u8::is_ascii_digit) && digits.first().is_some_and(|first| *first != b'0');
    let is_negative = digits.len() < total.len();
    (total == b"0" || is_integer)
        && (is_negative || total.len() < floor.len() || (total.len() == floor.len() && total < floor))
}

/// Returns the number that Redis reads in a text: no other text has the same one.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// Where the total begins in a receipt, after sixteen digits and a space.
const RECEIPT_TOTAL: usize = 17;

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
