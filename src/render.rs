//! The forms of an answer: which one a request prefers, and what stands in it.
//!
//! A body is a handful of slices, most of them constant, so that its length is known and nothing is copied before it
//! goes to the output.

use std::ops::Deref;

use crate::counter::{Decimal, Fault, Key};

/// How an answer is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A bare number and a newline, for scripts: `n=$(curl -s localhost/count)`.
    #[default]
    Text,
    /// An object on one line.
    Json,
}

impl Form {
    /// The form that the `Accept` fields prefer: by weight, then by how closely it is named, then by the order in which
    /// it is named (RFC 9110, section 12.5.1). Who accepts nothing that there is gets text all the same.
    #[must_use]
    pub fn choose(accept: &[&[u8]]) -> Self {
        let mut best = (0, 0, Self::Text);
        for range in accept.iter().flat_map(|field| field.split(|&byte| byte == b',')) {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let Some((form, closeness)) = parts.next().and_then(Self::named) else { continue };
            let weight = parts.find_map(weight).unwrap_or(FULL);
            if weight > 0 && (weight, closeness) > (best.0, best.1) {
                best = (weight, closeness, form);
            }
        }
        best.2
    }

    /// The form behind a media range, and how closely the range names it.
    fn named(range: &[u8]) -> Option<(Self, u8)> {
        let is = |other: &str| range.eq_ignore_ascii_case(other.as_bytes());
        match () {
            () if is("application/json") => Some((Self::Json, 3)),
            () if is("text/plain") => Some((Self::Text, 3)),
            () if is("application/*") => Some((Self::Json, 2)),
            () if is("text/*") => Some((Self::Text, 2)),
            () if is("*/*") => Some((Self::Text, 1)),
            () => None,
        }
    }

    /// `Content-Type`.
    #[must_use]
    pub fn media(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// A weight in thousandths: `q=0.5` is 500 (RFC 9110, section 12.4.2). `None` for other parameters.
fn weight(parameter: &[u8]) -> Option<u32> {
    let (b"q=" | b"Q=", digits) = parameter.split_at_checked(2)? else { return None };
    let mut digits = digits.iter().filter(|&&byte| byte != b'.').map(|byte| u32::from(byte.wrapping_sub(b'0')));
    let weight = (0..4).fold(0, |weight, _| weight * 10 + digits.next().filter(|&digit| digit <= 9).unwrap_or(0));
    Some(weight.min(FULL))
}

/// The weight of what has none.
const FULL: u32 = 1000;

/// A body in pieces, to be written one after the other.
pub struct Body<'a> {
    pieces: [&'a [u8]; MAX_PIECES],
    length: usize,
}

impl<'a> Body<'a> {
    /// Takes nine pieces at most.
    #[must_use]
    pub fn new(some: &[&'a [u8]]) -> Self {
        let mut pieces: [&[u8]; MAX_PIECES] = [b""; MAX_PIECES];
        for (piece, given) in pieces.iter_mut().zip(some) {
            *piece = given;
        }
        Self { pieces, length: some.len() }
    }
}

/// Most pieces in one body.
const MAX_PIECES: usize = 9;

impl<'a> Deref for Body<'a> {
    type Target = [&'a [u8]];

    fn deref(&self) -> &Self::Target {
        self.pieces.get(..self.length).unwrap_or_default()
    }
}

/// One number: a visitor's own, or the total.
#[must_use]
pub fn count<'a>(form: Form, key: &'a Key, number: &'a Decimal) -> Body<'a> {
    match form {
        Form::Text => Body::new(&[number, b"\n"]),
        Form::Json => Body::new(&[br#"{"counter":""#, key.as_bytes(), br#"","count":"#, number, b"}\n"]),
    }
}

/// One line that says something: a state, or what to do.
#[must_use]
pub fn line<'a>(form: Form, name: &'static str, words: [&'a str; 2]) -> Body<'a> {
    let words = words.map(str::as_bytes);
    match form {
        Form::Text => Body::new(&[words[0], words[1], b"\n"]),
        Form::Json => Body::new(&[br#"{""#, name.as_bytes(), br#"":""#, words[0], words[1], b"\"}\n"]),
    }
}

/// The sentence of the start page, in each form.
pub struct Welcome {
    text: String,
    json: String,
}

impl Welcome {
    /// Takes any text; control characters become spaces.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut welcome = Self { text: String::new(), json: String::new() };
        for char in text.chars() {
            let char = if char.is_control() { ' ' } else { char };
            welcome.text.push(char);
            if matches!(char, '"' | '\\') {
                welcome.json.push('\\');
            }
            welcome.json.push(char);
        }
        welcome
    }

    /// The start page: the sentence, and the total or why there is none.
    #[must_use]
    pub fn page<'a>(&'a self, form: Form, key: &'a Key, total: &'a Result<Decimal, Fault>) -> Body<'a> {
        match (form, total) {
            (Form::Text, Ok(total)) => Body::new(&[self.text.as_bytes(), b"\nvisits so far: ", total, b"\n"]),
            (Form::Text, Err(fault)) => {
                Body::new(&[self.text.as_bytes(), b"\nno count right now: ", why(*fault).as_bytes(), b"\n"])
            }
            (Form::Json, total) => {
                let (number, before, why, end) = match total {
                    Ok(total) => (&**total, &b""[..], "", &b"}\n"[..]),
                    Err(fault) => (&b"null"[..], &br#","error":""#[..], why(*fault), &b"\"}\n"[..]),
                };
                let (start, welcome, counter) = (br#"{"welcome":""#, self.json.as_bytes(), br#"","counter":""#);
                let (key, why) = (key.as_bytes(), why.as_bytes());
                Body::new(&[start, welcome, counter, key, br#"","count":"#, number, before, why, end])
            }
        }
    }
}

/// What is wrong with the store, as a clause in lower case.
#[must_use]
pub fn why(fault: Fault) -> &'static str {
    match fault {
        Fault::Down => "the store is away",
        Fault::Full => "too many counters are asked for at once",
        Fault::Lost => "the store did not say in time",
        Fault::Refused(cause) => cause.words(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_form_is_found() {
        for (accept, form) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("application/json", Form::Json),
            ("Application/JSON; charset=utf-8", Form::Json),
            ("application/json, text/plain, */*", Form::Json),
            ("text/plain, application/json", Form::Text),
            ("text/plain;q=0.5, application/json;q=0.9", Form::Json),
            ("application/json;q=0.5, */*", Form::Text),
            ("*/*, application/json", Form::Json),
            ("application/json;q=0, */*;q=0.1", Form::Text),
            ("application/json;q=0", Form::Text),
            ("application/*", Form::Json),
            ("image/png", Form::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Form::Text),
            (";;,,q=,application/json;q=1.0000;x", Form::Json),
        ] {
            assert_eq!(Form::choose(&[accept.as_bytes()]), form, "{accept}");
        }
    }

    #[test]
    fn a_welcome_stays_one_line_and_one_string() {
        let welcome = Welcome::new("say \"hi\"\\\nthere");
        let key = Key::new(b"visits").expect("a good name");
        let page = |form, total: Result<i64, Fault>| {
            let body = welcome.page(form, &key, &total.map(Decimal::new)).concat();
            String::from_utf8(body).expect("UTF-8")
        };
        assert_eq!(page(Form::Text, Ok(3)), "say \"hi\"\\ there\nvisits so far: 3\n");
        assert_eq!(page(Form::Text, Err(Fault::Down)), "say \"hi\"\\ there\nno count right now: the store is away\n");
        let object = r#"{"welcome":"say \"hi\"\\ there","counter":"visits","count":"#;
        assert_eq!(page(Form::Json, Ok(3)), format!("{object}3}}\n"));
        assert_eq!(page(Form::Json, Err(Fault::Down)), format!("{object}null,\"error\":\"the store is away\"}}\n"));
    }
}
