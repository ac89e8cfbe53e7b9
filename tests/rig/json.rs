//! Just enough JSON (RFC 8259) to say whether a text is some, and what is in it.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// As it is written: a count does not fit into a float.
    Number(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Json {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut chars = text.chars().peekable();
        let value =
            value(&mut chars).map_err(|why| format!("{why}, before {:?}", chars.clone().collect::<String>()))?;
        skip(&mut chars);
        chars.peek().is_none().then_some(value).ok_or_else(|| format!("more than one value in {text:?}"))
    }

    pub(crate) fn of(number: i64) -> Self {
        Self::Number(number.to_string())
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The member of this name of a map, where there is just one.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Map(members) = self else { return None };
        let mut found = members.iter().filter(|(other, _)| other == name);
        found.next().filter(|_| found.next().is_none()).map(|(_, value)| value)
    }
}

type Rest<'a> = Peekable<Chars<'a>>;

fn skip(rest: &mut Rest<'_>) {
    while rest.next_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
}

fn value(rest: &mut Rest<'_>) -> Result<Json, &'static str> {
    skip(rest);
    match *rest.peek().ok_or("a value is missing")? {
        '{' => items(rest, '}', member).map(Json::Map),
        '[' => items(rest, ']', value).map(Json::List),
        '"' => string(rest).map(Json::Text),
        '-' | '0'..='9' => number(rest),
        _ => word(rest),
    }
}

fn items<T>(
    rest: &mut Rest<'_>,
    close: char,
    item: fn(&mut Rest<'_>) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let mut found = Vec::new();
    rest.next();
    skip(rest);
    if rest.next_if_eq(&close).is_some() {
        return Ok(found);
    }
    loop {
        found.push(item(rest)?);
        skip(rest);
        match rest.next() {
            Some(',') => {}
            Some(c) if c == close => return Ok(found),
            _ => return Err("neither a comma nor the end"),
        }
    }
}

fn member(rest: &mut Rest<'_>) -> Result<(String, Json), &'static str> {
    skip(rest);
    let name = string(rest)?;
    skip(rest);
    rest.next_if_eq(&':').ok_or("no colon after a name")?;
    Ok((name, value(rest)?))
}

fn string(rest: &mut Rest<'_>) -> Result<String, &'static str> {
    rest.next_if_eq(&'"').ok_or("no string")?;
    let mut text = String::new();
    loop {
        match rest.next().ok_or("a string without end")? {
            '"' => return Ok(text),
            '\\' => text.push(escape(rest)?),
            c if c < ' ' => return Err("a bare control character"),
            c => text.push(c),
        }
    }
}

fn escape(rest: &mut Rest<'_>) -> Result<char, &'static str> {
    match rest.next().ok_or("a string without end")? {
        c @ ('"' | '\\' | '/') => Ok(c),
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        'b' => Ok('\u{8}'),
        'f' => Ok('\u{c}'),
        'u' => {
            let digits: String = rest.by_ref().take(4).collect();
            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).ok_or("no character of this number")
        }
        _ => Err("an escape that JSON does not know"),
    }
}

fn number(rest: &mut Rest<'_>) -> Result<Json, &'static str> {
    let mut text = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c)) {
        text.push(c);
    }
    let digits = text.trim_start_matches('-');
    let plain = text.parse::<f64>().is_ok() && digits.starts_with(|c: char| c.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if plain && !leading_zero { Ok(Json::Number(text)) } else { Err("not a number") }
}

fn word(rest: &mut Rest<'_>) -> Result<Json, &'static str> {
    let mut text = String::new();
    while let Some(c) = rest.next_if(char::is_ascii_lowercase) {
        text.push(c);
    }
    match text.as_str() {
        "null" => Ok(Json::Null),
        "true" => Ok(Json::Bool(true)),
        "false" => Ok(Json::Bool(false)),
        _ => Err("not a value"),
    }
}
