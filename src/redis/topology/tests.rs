use super::*;

fn address(text: &str) -> Address {
    let (host, port) = text.split_once(':').expect("host:port");
    Address { host: host.to_owned(), port: port.parse().expect("a port") }
}

fn list(text: &str) -> Vec<Address> {
    text.split(',').map(address).collect()
}

fn sentinels(text: &str) -> Servers {
    Servers::Sentinel { sentinels: list(text), name: "mymaster".to_owned(), credentials: Default::default() }
}

fn cluster(text: &str) -> Servers {
    Servers::Cluster { seeds: list(text) }
}

/// Plays a conversation: words that are steps are compared with the next step, and the others are events. A pause
/// `wait 10` is 10 ms long; time passes only by pauses.
fn play(servers: &Servers, conversation: &str) {
    let mut topology = Topology::new(servers);
    let mut now = 1000;
    for (number, line) in conversation.split(';').map(str::trim).enumerate() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let served = rest == "served";
        let moved = |rest: &str| {
            let (host, port) = rest.split_once(':').expect("[host]:port");
            Redirect { host: host.to_owned(), port: port.parse().expect("a port") }
        };
        let event = match word {
            "failed" => Event::ConnectFailed,
            "ended" => Event::SessionEnded { has_served: served },
            "refused" => Event::Refused { has_served: served },
            "replica" => Event::IsReplica { has_served: served },
            "moved" => Event::Moved(moved(rest)),
            "answered" => Event::SentinelReplied(address(rest)),
            "unknown" => Event::SentinelFailed,
            _ => {
                let step = match topology.next(now) {
                    Step::Connect(address) => format!("connect {address}"),
                    Step::ConnectUnix => "connect unix".to_owned(),
                    Step::QuerySentinel(address) => format!("query {address}"),
                    Step::Wait(until) => {
                        let pause = until - now;
                        assert_eq!(topology.next(until - 1), Step::Wait(until), "it waits until then");
                        now = until;
                        format!("wait {pause}")
                    }
                };
                assert_eq!(step, line, "at {number} of {conversation}");
                continue;
            }
        };
        topology.record(event, now);
    }
}

#[test]
fn one_address_is_tried_again_with_growing_pauses() {
    let single = Servers::Single(address("r:1"));
    for conversation in [
        "connect r:1; connect r:1; failed; wait 10; connect r:1; failed; wait 20; connect r:1; failed; wait 40",
        "connect r:1; ended; wait 10; connect r:1; ended; wait 20; connect r:1; ended served; wait 10; connect r:1",
        "connect r:1; replica; wait 10; connect r:1; refused; wait 20; connect r:1; refused served; wait 10",
        "connect r:1; failed; wait 10; connect r:1; failed; wait 20; connect r:1; failed; wait 40; connect r:1; \
         failed; wait 80; connect r:1; failed; wait 160; connect r:1; failed; wait 250; connect r:1; failed; wait 250",
    ] {
        play(&single, conversation);
        play(&Servers::Unix("/r".to_owned()), &conversation.replace("r:1", "unix"));
    }
}

#[test]
fn sentinels_are_queried_before_each_connection() {
    let three = sentinels("a:1,b:1,c:1");
    for conversation in [
        // The one that answered stays first.
        "query a:1; answered r:1; connect r:1; ended served; wait 10; query a:1; answered s:1; connect s:1",
        // A Sentinel that is down, silent or monitors no primary of the name is followed by the next at once.
        "query a:1; unknown; query b:1; answered r:1; connect r:1; ended served; wait 10; query b:1",
        "query a:1; unknown; query b:1; unknown; query c:1; unknown; wait 10; query a:1; unknown; query b:1; unknown; \
         query c:1; unknown; wait 20",
        // One that names a replica or a dead node too.
        "query a:1; answered r:1; connect r:1; replica; query b:1; answered s:1; connect s:1; ended served; wait 10; \
         query b:1",
        "query a:1; answered r:1; connect r:1; failed; query b:1; answered r:1; connect r:1; failed; query c:1; \
         answered r:1; connect r:1; failed; wait 10; query a:1",
        // A primary that was demoted while it served: the Sentinels may have a newer answer.
        "query a:1; answered r:1; connect r:1; replica served; wait 10; query a:1; answered s:1; connect s:1",
        // The Sentinel names a node that accepts connections and counts nothing.
        "query a:1; answered r:1; connect r:1; ended; wait 10; query b:1; answered r:1; connect r:1; ended; wait 20; \
         query c:1; answered r:1; connect r:1; ended; wait 40; query a:1",
        "query a:1; answered r:1; connect r:1; refused; wait 10; query b:1",
        "query a:1; answered r:1; connect r:1; refused served; wait 10; query a:1",
    ] {
        play(&three, conversation);
    }
    play(
        &sentinels("a:1"),
        "query a:1; unknown; wait 10; query a:1; answered r:1; connect r:1; replica; wait 20; query a:1",
    );
}

#[test]
fn the_owner_in_a_cluster_is_found_from_any_node() {
    let two = cluster("a:1,b:1");
    for conversation in [
        "connect a:1; moved c:7; connect c:7; moved b:1; connect b:1",
        // The host of the node that sent the error.
        "connect a:1; moved :7; connect a:7; moved :8; connect a:8",
        // A dead node sends no MOVED: back to the seed that named it, and to the next seed if it is the seed itself.
        "connect a:1; moved c:7; connect c:7; failed; wait 10; connect a:1; moved c:7; connect c:7; failed; wait 20; \
         connect a:1; failed; wait 40; connect b:1",
        "connect a:1; ended; wait 10; connect b:1; ended; wait 20; connect a:1",
        "connect a:1; moved c:7; connect c:7; ended served; wait 10; connect a:1; moved d:7; connect d:7",
        "connect a:1; moved c:7; connect c:7; replica; wait 10; connect a:1",
        // Two nodes that name each other.
        "connect a:1; moved c:7; connect c:7; moved a:1; connect a:1; moved c:7; connect c:7; moved a:1; \
         connect a:1; moved c:7; connect c:7; moved a:1; wait 10; connect a:1; moved c:7; connect c:7; moved a:1; \
         connect a:1; moved c:7; connect c:7; moved a:1; connect a:1; moved c:7; connect c:7; moved a:1; wait 20",
        // A refusal is waited out at the same node, and then at another.
        "connect a:1; moved c:7; connect c:7; refused; wait 10; connect c:7; refused; wait 20; connect c:7; refused; \
         wait 40; connect c:7; refused; wait 80; connect c:7; refused; wait 160; connect c:7; refused; wait 250; \
         connect a:1; refused; wait 250; connect b:1",
        "connect a:1; refused served; wait 10; connect a:1; refused; wait 20; connect a:1",
    ] {
        play(&two, conversation);
    }
    play(
        &cluster("a:1"),
        "connect a:1; failed; wait 10; connect a:1; moved a:1; connect a:1; ended; wait 20; connect a:1",
    );
}
