//! The only file that knows URLs: from the head of a request to what is to be done.

use crate::counter::{Counters, Key};
use crate::http::{Glimpse, Head, Method};
use crate::origin::{Origins, Share};
use crate::render::Form;

/// What a request is for, and in which form it wants its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub act: Act,
    /// Where the request went.
    pub route: Route,
    /// How to say it.
    pub form: Form,
    /// Whose page may read it.
    pub share: Share,
    /// The answer goes without its body: `HEAD`.
    pub bare: bool,
}

impl Plan {
    /// Whether the number that is shown is another than `GET` would give, so that the body's length may differ: `HEAD` of
    /// what counts.
    #[must_use]
    pub fn is_another_number(&self) -> bool {
        matches!(self.act, Act::Total(_)) && (self.route == Route::Count || self.form == Form::Badge)
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
    fn to(act: Act, drawn: bool) -> Self {
        match act {
            _ if drawn => Self::Badge,
            Act::Welcome(_) => Self::Page,
            Act::Count(_) => Self::Count,
            Act::Total(_) => Self::Total,
            Act::Live => Self::Livez,
            Act::Ready => Self::Readyz,
            Act::Metrics => Self::Metrics,
            _ => Self::Other,
        }
    }
}

/// What can be asked of this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
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
pub fn plan(head: &Head<'_>, counters: &Counters, origins: &Origins) -> Plan {
    let (act, drawn) = find(head.path, counters);
    let route = Route::to(act, drawn.is_some());
    let allowed = match act {
        Act::Count(_) => COUNTING,
        _ => READING,
    };
    let share = share(act, head.origin, origins);
    let act = match (head.method, act) {
        (_, Act::Unknown | Act::NoCounter) => act,
        (Method::Options, _) if head.preflight && !head.origin.is_empty() && matches!(share, Share::With(_)) => {
            Act::Preflight(allowed)
        }
        (Method::Options | Method::Other, _) => Act::Allow(allowed),
        (Method::Post, _) if allowed == READING => Act::Allow(READING),
        // A page fetched ahead of a visit is none, and would be shown at the visit if it were answered. A look at what would
        // be answered is none either.
        (_, Act::Count(key)) if head.prefetch => Act::Prefetch(key),
        (Method::Head, Act::Count(key)) => Act::Total(key),
        (_, act) => act,
    };
    let form = match (drawn, act) {
        (Some(form), Act::Count(_) | Act::Total(_) | Act::Prefetch(_)) => form,
        _ => Form::choose(&head.accept),
    };
    Plan { act, route, form, share, bare: head.method == Method::Head }
}

/// Returns the plan for a request whose head is refused: its form, and whose page may read why.
#[must_use]
pub fn refused(seen: &Glimpse<'_>, counters: &Counters, origins: &Origins) -> Plan {
    let (act, _) = find(seen.path, counters);
    Plan {
        route: Route::Refused,
        form: Form::choose(&seen.accept),
        share: share(act, seen.origin, origins),
        bare: seen.is_head,
        ..Plan::default()
    }
}

/// Where nothing is, a page might have meant a counter, and is to see that there is none.
fn share(act: Act, origin: &[u8], origins: &Origins) -> Share {
    match act {
        Act::Count(_) | Act::Total(_) | Act::Unknown | Act::NoCounter => origins.share(origin),
        _ => Share::Unsaid,
    }
}

/// What a path is for, and in which form it is drawn if it is a badge.
fn find(path: &[u8], counters: &Counters) -> (Act, Option<Form>) {
    match act(path, counters) {
        Act::Unknown => badge(path, counters).unwrap_or((Act::Unknown, None)),
        act => (act, None),
    }
}

fn act(path: &[u8], counters: &Counters) -> Act {
    match PATHS.iter().find(|(known, _)| known.as_bytes() == path) {
        Some((_, act)) => act(counters.main),
        None => named(path, counters).unwrap_or(Act::Unknown),
    }
}

fn named(path: &[u8], counters: &Counters) -> Option<Act> {
    let (act, name): (ActOn, _) = match path.strip_prefix(b"/count/") {
        Some(name) => (Act::Count, name),
        None => (Act::Total, path.strip_prefix(b"/total/")?),
    };
    (!name.is_empty()).then(|| counters.named(name).map_or(Act::NoCounter, act))
}

/// A badge is drawn for whoever visits what it stands on, so it counts; what shields.io reads when it sees fit does
/// not.
fn badge(path: &[u8], counters: &Counters) -> Option<(Act, Option<Form>)> {
    let path = path.strip_prefix(b"/badge")?;
    let ((act, form), path): ((ActOn, _), _) = match path.strip_suffix(b".svg") {
        Some(path) => ((Act::Count, Form::Badge), path),
        None => ((Act::Total, Form::Shield), path.strip_suffix(b".json")?),
    };
    let key = if path.is_empty() { Some(counters.main) } else { counters.named(path.strip_prefix(b"/")?) };
    Some(key.map_or((Act::NoCounter, None), |key| (act(key), Some(form))))
}

/// Makes an act of the counter that it may be about.
type ActOn = fn(Key) -> Act;

/// The paths that have no name in them.
const PATHS: [(&str, ActOn); 8] = [
    ("/count", Act::Count),
    ("/", Act::Welcome),
    ("/total", Act::Total),
    ("/livez", |_| Act::Live),
    ("/readyz", |_| Act::Ready),
    ("/metrics", |_| Act::Metrics),
    ("/favicon.ico", |_| Act::Icon),
    ("/robots.txt", |_| Act::Robots),
];

/// `Allow` of whatever only shows something.
const READING: &str = "GET, HEAD";

/// `Allow` of whatever counts.
const COUNTING: &str = "GET, HEAD, POST";
