//! The only file that knows URLs: from the head of a request to what is to be done.

use crate::cors::{CorsDecision, Origins};
use crate::counter::{Counters, Key};
use crate::http::{Head, Method, PartialHead};
use crate::render::Format;

/// What a request is for, and in which form it wants its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// What to do.
    pub act: Handler,
    /// Where the request went.
    pub route: Route,
    /// How to say it.
    pub form: Format,
    /// Whose page may read it.
    pub share: CorsDecision,
    /// The answer goes without its body: `HEAD`.
    pub bare: bool,
}

impl RouteMatch {
    /// Whether the number that is shown is another than `GET` would give, so that the body's length may differ: `HEAD` of
    /// what counts.
    #[must_use]
    pub fn is_another_number(&self) -> bool {
        matches!(self.act, Handler::Total(_)) && (self.route == Route::Count || self.form == Format::Badge)
    }
}

/// Where requests go, as metrics tell them apart: a few places, whatever clients ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// `/`.
    Page,
    /// `/count`, and those with a name.
    Count,
    /// `/total`, and those with a name.
    Total,
    /// `/badge.svg` and `/badge.json`, and those with a name.
    Badge,
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
    /// Anywhere else.
    #[default]
    Other,
    /// Nowhere, since it was refused before that, or while its body was read.
    Refused,
}

impl Route {
    /// What each is called, in their order.
    pub const NAMES: [&'static str; 9] =
        ["page", "count", "total", "badge", "livez", "readyz", "metrics", "other", "refused"];

    /// The route to what a path is for, which is a badge if it is drawn.
    fn to(act: Handler, drawn: bool) -> Self {
        match act {
            _ if drawn => Self::Badge,
            Handler::Welcome(_) => Self::Page,
            Handler::Count(_) => Self::Count,
            Handler::Total(_) => Self::Total,
            Handler::Live => Self::Livez,
            Handler::Ready => Self::Readyz,
            Handler::Metrics => Self::Metrics,
            _ => Self::Other,
        }
    }
}

/// What can be asked of this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handler {
    /// The welcome, with the total so far.
    Welcome(Key),
    /// Count one visit.
    Count(Key),
    /// The total, and nothing counted.
    Total(Key),
    /// Refuse to count a visit that may never come, so that the browser asks again when it does.
    Prefetch(Key),
    /// The process turns.
    Live,
    /// The store answers, and this server is there to stay.
    Ready,
    /// What has been done so far, in numbers.
    Metrics,
    /// There is no icon, and browsers need not ask again.
    Icon,
    /// What crawlers may follow.
    Robots,
    /// Say to a page of another origin that it may use these methods.
    Preflight(&'static str),
    /// Nothing is here.
    #[default]
    Unknown,
    /// A counter is meant, but its name is not allowed.
    NoCounter,
    /// Something is here, but only for these methods.
    Allow(&'static str),
}

/// Finds what `head` is for.
#[must_use]
pub fn match_route(head: &Head<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    let (act, drawn) = find(head.path, counters);
    let route = Route::to(act, drawn.is_some());
    let allowed = match act {
        Handler::Count(_) => COUNTING,
        _ => READING,
    };
    let share = share(act, head.origin, origins);
    let act = match (head.method, act) {
        (_, Handler::Unknown | Handler::NoCounter) => act,
        (Method::Options, _)
            if head.is_preflight && !head.origin.is_empty() && matches!(share, CorsDecision::Allowed(_)) =>
        {
            Handler::Preflight(allowed)
        }
        (Method::Options | Method::Other, _) => Handler::Allow(allowed),
        (Method::Post, _) if allowed == READING => Handler::Allow(READING),
        // A page fetched ahead of a visit is none, and would be shown at the visit if it were answered. A look at what would
        // be answered is none either.
        (_, Handler::Count(key)) if head.is_prefetch => Handler::Prefetch(key),
        (Method::Head, Handler::Count(key)) => Handler::Total(key),
        (_, act) => act,
    };
    let form = match (drawn, act) {
        (Some(form), Handler::Count(_) | Handler::Total(_) | Handler::Prefetch(_)) => form,
        _ => Format::choose(&head.accept),
    };
    RouteMatch { act, route, form, share, bare: head.method == Method::Head }
}

/// Returns the plan for a request whose head is refused: its form, and whose page may read why.
#[must_use]
pub fn refused(seen: &PartialHead<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    let (act, _) = find(seen.path, counters);
    RouteMatch {
        route: Route::Refused,
        form: Format::choose(&seen.accept),
        share: share(act, seen.origin, origins),
        bare: seen.is_head,
        ..RouteMatch::default()
    }
}

/// Where nothing is, a page might have meant a counter, and is to see that there is none.
fn share(act: Handler, origin: &[u8], origins: &Origins) -> CorsDecision {
    match act {
        Handler::Count(_) | Handler::Total(_) | Handler::Unknown | Handler::NoCounter => origins.decide(origin),
        _ => CorsDecision::NotApplicable,
    }
}

/// What a path is for, and in which form it is drawn if it is a badge.
fn find(path: &[u8], counters: &Counters) -> (Handler, Option<Format>) {
    match act(path, counters) {
        Handler::Unknown => badge(path, counters).unwrap_or((Handler::Unknown, None)),
        act => (act, None),
    }
}

fn act(path: &[u8], counters: &Counters) -> Handler {
    match PATHS.iter().find(|(known, _)| known.as_bytes() == path) {
        Some((_, act)) => act(counters.main),
        None => named(path, counters).unwrap_or(Handler::Unknown),
    }
}

fn named(path: &[u8], counters: &Counters) -> Option<Handler> {
    let (act, name): (ToHandler, _) = match path.strip_prefix(b"/count/") {
        Some(name) => (Handler::Count, name),
        None => (Handler::Total, path.strip_prefix(b"/total/")?),
    };
    (!name.is_empty()).then(|| counters.key_of(name).map_or(Handler::NoCounter, act))
}

/// A badge is drawn for whoever visits what it stands on, so it counts; what shields.io reads when it sees fit does
/// not.
fn badge(path: &[u8], counters: &Counters) -> Option<(Handler, Option<Format>)> {
    let path = path.strip_prefix(b"/badge")?;
    let ((act, form), path): ((ToHandler, _), _) = match path.strip_suffix(b".svg") {
        Some(path) => ((Handler::Count, Format::Badge), path),
        None => ((Handler::Total, Format::Shield), path.strip_suffix(b".json")?),
    };
    let key = if path.is_empty() { Some(counters.main) } else { counters.key_of(path.strip_prefix(b"/")?) };
    Some(key.map_or((Handler::NoCounter, None), |key| (act(key), Some(form))))
}

/// Makes an act of the counter that it may be about.
type ToHandler = fn(Key) -> Handler;

/// The paths that have no name in them.
const PATHS: [(&str, ToHandler); 8] = [
    ("/count", Handler::Count),
    ("/", Handler::Welcome),
    ("/total", Handler::Total),
    ("/livez", |_| Handler::Live),
    ("/readyz", |_| Handler::Ready),
    ("/metrics", |_| Handler::Metrics),
    ("/favicon.ico", |_| Handler::Icon),
    ("/robots.txt", |_| Handler::Robots),
];

/// `Allow` of whatever only shows something.
const READING: &str = "GET, HEAD";

/// `Allow` of whatever counts.
const COUNTING: &str = "GET, HEAD, POST";
