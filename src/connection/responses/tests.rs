use super::super::tests::context;
use super::*;

/// All outcomes, each with a name.
fn outcomes<'a>(
    key: &'a Key,
    style: Option<&'a BadgeStyle>,
    totals: (&'a [Key], &'a [i64]),
) -> Vec<(String, Outcome<'a>)> {
    let mut outcomes = Vec::new();
    let numbers = [
        ("ok", Ok(7)),
        ("unavailable", Err(StoreError::Unavailable)),
        ("overloaded", Err(StoreError::Overloaded)),
        ("unknown", Err(StoreError::OutcomeUnknown)),
        ("rejected", Err(StoreError::Rejected(Rejection::OutOfMemory))),
        ("too many", Err(StoreError::Rejected(Rejection::TooManyCounters))),
        ("no scripts", Err(StoreError::Rejected(Rejection::ScriptsRequired))),
    ];
    let formats = [("text", Format::Text), ("json", Format::Json), ("html", Format::Html)];
    let rejected = http::REQUEST_TIMEOUT;
    for (format_name, format) in formats {
        for (name, number) in numbers {
            for outcome in [
                Outcome::Welcome(format, key, number),
                Outcome::Count(format, key, number),
                Outcome::Total(format, key, number),
            ] {
                outcomes.push((format!("{format_name} {name}"), outcome));
            }
        }
        for (name, outcome) in [
            ("", Outcome::Alive(format)),
            ("ok", Outcome::Readiness(format, Ok(()))),
            ("draining", Outcome::Readiness(format, Err(NotReady::Draining))),
            ("unavailable", Outcome::Readiness(format, Err(NotReady::Store(StoreError::Unavailable)))),
            ("path", Outcome::RouteError(format, RouteError::NotFound)),
            ("counter", Outcome::RouteError(format, RouteError::InvalidCounter)),
            ("names", Outcome::RouteError(format, RouteError::TooManyNames)),
            ("method", Outcome::RouteError(format, RouteError::MethodNotAllowed("GET, HEAD"))),
            ("prefetch", Outcome::RouteError(format, RouteError::Prefetch)),
            ("", Outcome::Rejected(format, rejected)),
        ] {
            outcomes.push((format!("{format_name} {name}"), outcome));
        }
    }
    for (name, number) in numbers {
        for (visit_name, visit) in
            [("counted", ImageVisit::Counted), ("head", ImageVisit::Head), ("prefetch", ImageVisit::Prefetch)]
        {
            outcomes.push((format!("{visit_name} {name}"), Outcome::Badge(style, visit, number)));
            outcomes.push((format!("{visit_name} {name}"), Outcome::Pixel(visit, number)));
        }
        outcomes.push((name.to_owned(), Outcome::BadgeObject(number)));
        outcomes.push((name.to_owned(), Outcome::Totals(number.map(|_| totals))));
    }
    for outcome in [Outcome::Metrics, Outcome::Icon, Outcome::Robots, Outcome::Preflight("GET, HEAD")] {
        outcomes.push((String::new(), outcome));
    }
    outcomes
}

/// Returns the name of the handler. A new kind of outcome does not compile here: add it to [`outcomes`] and the table.
fn handler_of(outcome: &Outcome<'_>) -> &'static str {
    match outcome {
        Outcome::Welcome(..) => "/",
        Outcome::Count(..) => "/count",
        Outcome::Total(..) => "/total",
        Outcome::Totals(_) => "/total?names=",
        Outcome::Badge(..) => "/badge.svg",
        Outcome::BadgeObject(_) => "/badge.json",
        Outcome::Pixel(..) => "/count.gif",
        Outcome::Alive(_) => "/livez",
        Outcome::Readiness(..) => "/readyz",
        Outcome::Metrics => "/metrics",
        Outcome::Icon => "/favicon.ico",
        Outcome::Robots => "/robots.txt",
        Outcome::Preflight(_) => "preflight",
        Outcome::RouteError(..) => "error",
        Outcome::Rejected(..) => "rejected",
    }
}

/// Returns a body on one line; of a page or a badge only what it shows.
fn shown(body: &str) -> String {
    let between = |start: &str, end: &str| body.split_once(start).and_then(|(_, rest)| rest.split_once(end));
    if let Some((status, _)) = between("<p role=status>", "</p>") {
        let text: String = status.split(['<', '>']).step_by(2).collect();
        let links = if body.contains("aria-label=Counters") { " + links" } else { "" };
        return text.trim().to_owned() + links;
    }
    if let Some((title, _)) = between("<title>", "</title>") {
        return title.to_owned();
    }
    let first = if body.starts_with("# HELP") { "# HELP ..." } else { body.trim_end() };
    first.replace('\n', "/")
}

/// The whole table: handler, format and outcome; status; `Content-Type`; `Cache-Control`, `Allow`; what the body shows.
const TABLE: &str = include_str!("table.txt");

/// Longest row of the table in bytes.
const MAX_ROW: usize = 118;

#[test]
fn table_of_all_responses() {
    let server = context();
    let (key, style) = (server.counters.main, BadgeStyle::new(b"label=readers"));
    let totals = (&[server.counters.key_of(b"blog").expect("a good name")][..], &[7][..]);
    let mut rows: Vec<String> = Vec::new();
    for (name, outcome) in outcomes(&key, Some(&style), totals) {
        let Response { status, caching, methods, content } = outcome.response();
        let mut body = Vec::new();
        content.write(&server, &mut body);
        let body = str::from_utf8(&body).map_or_else(|_| format!("{} bytes", body.len()), shown);
        let case = [handler_of(&outcome), " ", name.trim()].concat();
        let (media, policy) = content.media();
        let media = media.map_or("none", |media| media.split(';').next().unwrap_or_default());
        let policy = if policy.is_some() { " +policy" } else { "" };
        let methods = methods.map_or(String::new(), |methods| format!(" allow={methods}"));
        let row = format!(
            "{} | {} | {media}{policy} | {}{methods} | {body}",
            case.trim(),
            status.code(),
            caching.directives()
        );
        // The rest of a message is that of the error, which other tests assert.
        let row = if row.len() > MAX_ROW { row[..MAX_ROW - 3].trim_end().to_owned() + "..." } else { row };
        rows.push(row.trim_end().to_owned());
    }
    let table: Vec<&str> = TABLE.lines().collect();
    let missing: Vec<_> = rows.iter().filter(|row| !table.contains(&row.as_str())).collect();
    let extra: Vec<_> = table.iter().filter(|row| !rows.iter().any(|one| one == *row)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "not in the table: {missing:#?}\nonly in the table: {extra:#?}");
    assert_eq!(rows.len(), table.len(), "a row occurs twice");
}

#[test]
fn store_is_needed_by_counters_and_readiness_only() {
    let key = context().counters.main;
    let reply = Some(Ok(7));
    for (handler, needs_store) in [
        (Handler::Counter(key, Operation::Welcome), true),
        (Handler::Counter(key, Operation::Count), true),
        (Handler::Counter(key, Operation::Total), true),
        (Handler::Counter(key, Operation::Badge(ImageVisit::Prefetch)), true),
        (Handler::Counter(key, Operation::Pixel(ImageVisit::Head)), true),
        (Handler::Counter(key, Operation::BadgeObject), true),
        (Handler::Totals, true),
        (Handler::Readyz, true),
        (Handler::Livez, false),
        (Handler::Metrics, false),
        (Handler::Icon, false),
        (Handler::Robots, false),
        (Handler::Preflight("GET"), false),
        (Handler::Error(RouteError::Prefetch), false),
    ] {
        let request = PendingRequest {
            route_match: RouteMatch { handler, ..RouteMatch::default() },
            ..PendingRequest::default()
        };
        let is_readiness = request.route_match.handler == Handler::Readyz;
        assert_eq!(request.outcome(None, None, false).is_none(), needs_store, "{:?}", request.route_match);
        assert_eq!(
            request.outcome(None, None, true).is_none(),
            needs_store && !is_readiness,
            "{:?}",
            request.route_match
        );
        assert!(request.outcome(reply, None, false).is_some());
    }
}
