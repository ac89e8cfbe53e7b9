//! Looking a host's name up, on the thread that waits for it: the sockets, files and clock around `dns`.
//!
//! One server after the other is asked for both kinds of addresses at once, and asked again every second, since
//! datagrams get lost. The files are read each time: they are small, and a container's may change while it runs.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::{Status, after, left};
use crate::dns::{self, A, AAAA, Conf, Verdict};
use crate::machine;

/// Where a system says whom to ask.
struct Sources<'a> {
    hosts: &'a str,
    conf: &'a str,
    /// The port of the name servers.
    port: u16,
}

/// The addresses of `host`, one at least, if they are found before `deadline`.
pub(super) fn look_up(host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Status> {
    let sources = Sources { hosts: "/etc/hosts", conf: "/etc/resolv.conf", port: 53 };
    sources.look_up(host, deadline)
}

impl Sources<'_> {
    fn look_up(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Status> {
        let mut found = dns::listed(&machine::read(self.hosts), host);
        if found.is_empty() {
            found = dns::known(host);
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let conf = machine::read(self.conf);
        let conf = Conf::parse(&conf);
        for name in conf.candidates(host) {
            self.ask(&conf.servers, &name, deadline, &mut found)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(NO_ADDRESS)
    }

    /// Asks the servers in turn until one knows whether there is such a name.
    fn ask(&self, servers: &[IpAddr], name: &str, deadline: Instant, found: &mut Vec<IpAddr>) -> Result<(), Status> {
        let id = machine::random() as u16;
        let (Some(a), Some(aaaa)) = (dns::query(id, name, A), dns::query(!id, name, AAAA)) else {
            return Err(NO_ADDRESS);
        };
        let mut unable = 0;
        for &server in servers.iter().cycle() {
            let until = deadline.min(after(RESEND));
            let verdict = exchange(SocketAddr::new(server, self.port), [&a, &aaaa], until, found);
            match verdict {
                Ok(Verdict::Exists | Verdict::NoName) => return Ok(()),
                // What came before something went wrong will do.
                _ if !found.is_empty() => return Ok(()),
                Ok(Verdict::Foreign) => unable = 0,
                Ok(Verdict::Unable) | Err(_) => unable += 1,
            }
            if unable == servers.len() || Instant::now() >= deadline {
                break;
            }
        }
        Err(NO_SERVER)
    }
}

/// Sends queries to one server and takes its replies until all have come, or one that speaks for all. `Foreign` if the
/// time is over before.
fn exchange(server: SocketAddr, queries: [&[u8]; 2], until: Instant, found: &mut Vec<IpAddr>) -> io::Result<Verdict> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Only this server is heard, and a port where nobody listens is an error at once.
    socket.connect(server)?;
    for query in queries {
        socket.send(query)?;
    }
    let mut verdicts = [Verdict::Foreign; 2];
    let mut datagram = [0; dns::MAX_REPLY];
    while verdicts.contains(&Verdict::Foreign) {
        let left = left(until);
        if left.is_zero() {
            return Ok(Verdict::Foreign);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut datagram) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            received => received?,
        };
        for (query, verdict) in queries.iter().zip(&mut verdicts).filter(|(_, verdict)| **verdict == Verdict::Foreign) {
            *verdict = dns::reply(&datagram[..length], query, found);
        }
        if verdicts.contains(&Verdict::NoName) {
            return Ok(Verdict::NoName);
        }
    }
    Ok(if verdicts.contains(&Verdict::Unable) { Verdict::Unable } else { Verdict::Exists })
}

const NO_ADDRESS: Status = Status::Away("its host name has no address: check REDIS_HOST");

const NO_SERVER: Status = Status::Away("no name server tells its address: check REDIS_HOST and /etc/resolv.conf");

/// How long a reply is waited for before the question is sent again.
const RESEND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;
    use std::thread::{self, JoinHandle};
    use std::{env, fs, process};

    use super::*;

    /// What a name server that is played says to each query in turn: nothing, or these flags with these IPv4 addresses.
    type Script = &'static [Option<(u8, &'static [[u8; 4]])>];

    const NO_NAME: u8 = 0x83;
    const FAILED: u8 = 0x82;
    const FINE: u8 = 0x80;

    /// Plays a name server on its own address of this machine. It ends with its script.
    fn play(server: &str, port: u16, script: Script) -> (u16, JoinHandle<Vec<String>>) {
        let socket = UdpSocket::bind((server, port)).expect("an address of this machine");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a good timeout");
        let port = socket.local_addr().expect("an address").port();
        let played = thread::spawn(move || {
            let mut asked = Vec::new();
            for line in script {
                let mut query = [0; 512];
                let Ok((length, from)) = socket.recv_from(&mut query) else { break };
                let query = &query[..length];
                asked.push(format!("{} {}", name(&query[12..length - 5]), query[length - 3]));
                let Some((flags, addresses)) = line else { continue };
                let mut reply = [&query[..2], &[0x81, *flags, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]].concat();
                reply.extend(&query[12..]);
                for address in *addresses {
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
                    reply.extend(address);
                }
                socket.send_to(&reply, from).expect("a way back");
            }
            asked
        });
        (port, played)
    }

    fn name(mut labels: &[u8]) -> String {
        let mut name = Vec::new();
        while let Some((&length, rest)) = labels.split_first() {
            let (label, rest) = rest.split_at(usize::from(length));
            name.push(String::from_utf8_lossy(label).into_owned());
            labels = rest;
        }
        name.join(".")
    }

    /// A file that goes with its owner.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, text: &str) -> Self {
            let path = env::temp_dir().join(format!("notch-lookup-{}-{name}", process::id()));
            fs::write(&path, text).expect("room for a file");
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().expect("a path in UTF-8")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// Looks `redis` up with two name servers that are played, and says what they were asked.
    fn look_up(
        case: &str,
        net: u8,
        conf: &str,
        scripts: [Script; 2],
    ) -> (Result<Vec<IpAddr>, Status>, [Vec<String>; 2]) {
        let servers = [1, 2].map(|host| format!("127.7.{net}.{host}"));
        let (port, first) = play(&servers[0], 0, scripts[0]);
        let (_, second) = play(&servers[1], port, scripts[1]);
        let text = format!("nameserver {}\nnameserver {}\n{conf}", servers[0], servers[1]);
        let conf = Scratch::new(case, &text);
        let sources = Sources { hosts: "/no/such/file", conf: conf.path(), port };
        let found = sources.look_up("redis", Instant::now() + Duration::from_secs(3));
        (found, [first, second].map(|played| played.join().expect("no panic")))
    }

    const HERE: [u8; 4] = [10, 0, 0, 9];

    #[test]
    fn name_servers_are_asked_until_one_knows() {
        /// Its name, lines of `resolv.conf`, what the servers say, what is found, and what the servers were asked.
        type Case = (&'static str, &'static str, [Script; 2], Result<[u8; 4], Status>, [&'static [&'static str]; 2]);
        let cases: [Case; 8] = [
            (
                "both-kinds",
                "",
                [&[Some((FINE, &[HERE])), Some((FINE, &[]))], &[]],
                Ok(HERE),
                [&["redis 1", "redis 28"], &[]],
            ),
            (
                "search",
                "search a.org b.org",
                [&[Some((NO_NAME, &[])), None, Some((FINE, &[HERE])), Some((FINE, &[]))], &[]],
                Ok(HERE),
                [&["redis.a.org 1", "redis.a.org 28", "redis.b.org 1", "redis.b.org 28"], &[]],
            ),
            (
                "the-next-after-one-that-fails",
                "",
                [&[Some((FAILED, &[])), Some((FAILED, &[]))], &[Some((FINE, &[HERE])), Some((FINE, &[]))]],
                Ok(HERE),
                [&["redis 1", "redis 28"], &["redis 1", "redis 28"]],
            ),
            (
                "the-next-after-one-that-is-silent",
                "",
                [&[None, None], &[Some((FINE, &[HERE])), Some((FINE, &[]))]],
                Ok(HERE),
                [&["redis 1", "redis 28"], &["redis 1", "redis 28"]],
            ),
            ("one-kind-will-do", "", [&[Some((FINE, &[HERE])), None], &[]], Ok(HERE), [&["redis 1", "redis 28"], &[]]),
            ("no-name", "", [&[Some((NO_NAME, &[])), None], &[]], Err(NO_ADDRESS), [&["redis 1", "redis 28"], &[]]),
            (
                "no-address",
                "",
                [&[Some((FINE, &[])), Some((FINE, &[]))], &[]],
                Err(NO_ADDRESS),
                [&["redis 1", "redis 28"], &[]],
            ),
            (
                "all-fail",
                "",
                [&[Some((FAILED, &[])), Some((FAILED, &[]))], &[Some((FAILED, &[])), Some((FAILED, &[]))]],
                Err(NO_SERVER),
                [&["redis 1", "redis 28"], &["redis 1", "redis 28"]],
            ),
        ];
        for (net, (case, conf, scripts, found, asked)) in (1..).zip(cases) {
            let (result, heard) = look_up(case, net, conf, scripts);
            assert_eq!(result, found.map(|address| vec![address.into()]), "{case}");
            assert_eq!(
                heard,
                asked.map(|asked| asked.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()),
                "{case}"
            );
        }
    }

    #[test]
    fn a_look_up_ends_by_its_deadline() {
        let (port, played) = play("127.7.0.1", 0, &[None; 4]);
        let conf = Scratch::new("deadline", "nameserver 127.7.0.1\n");
        let sources = Sources { hosts: "/no/such/file", conf: conf.path(), port };
        let begun = Instant::now();
        assert_eq!(sources.look_up("redis", begun + Duration::from_millis(1500)), Err(NO_SERVER));
        assert!(begun.elapsed() >= Duration::from_millis(1500));
        // Datagrams get lost, so the question was sent again.
        assert_eq!(played.join().expect("no panic").len(), 4);
    }

    #[test]
    fn the_hosts_file_comes_first() {
        let hosts = Scratch::new("hosts", "10.0.0.9 redis\n");
        let sources = Sources { hosts: hosts.path(), conf: "/no/such/file", port: 9 };
        for (host, found) in [
            ("redis", Ok(vec![IpAddr::from(HERE)])),
            ("::1", Ok(vec![IpAddr::from(Ipv6Addr::LOCALHOST)])),
            ("localhost", Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])),
            ("not..a.name", Err(NO_ADDRESS)),
        ] {
            assert_eq!(sources.look_up(host, Instant::now() + Duration::from_secs(3)), found, "{host}");
        }
    }
}
