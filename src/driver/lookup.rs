//! Looking a host's name up, on the thread that waits for it: the sockets, files and clock around `dns`.
//!
//! One server after the other is asked for both kinds of addresses at once, and asked again every second, since datagrams
//! get lost. The files are read each time: they are small, and a container's may change while it runs.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Status, random};
use crate::dns::{self, A, AAAA, Conf, Verdict};

/// Where a system says whom to ask.
struct Sources<'a> {
    hosts: &'a Path,
    conf: &'a Path,
    /// The port of the name servers.
    port: u16,
}

/// The addresses of `host`, one at least, if they are found before `deadline`.
pub(super) fn look_up(host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Status> {
    let sources = Sources { hosts: Path::new("/etc/hosts"), conf: Path::new("/etc/resolv.conf"), port: 53 };
    sources.look_up(host.as_bytes(), deadline)
}

impl Sources<'_> {
    fn look_up(&self, host: &[u8], deadline: Instant) -> Result<Vec<IpAddr>, Status> {
        // An absent file says nothing, as an empty one.
        let mut found = dns::listed(&fs::read(self.hosts).unwrap_or_default(), host);
        if found.is_empty() {
            found = dns::known(host);
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let conf = Conf::parse(&fs::read(self.conf).unwrap_or_default());
        for name in conf.candidates(host) {
            self.ask(&conf.servers, &name, deadline, &mut found)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(NO_ADDRESS)
    }

    /// Asks the servers in turn until one knows whether there is such a name.
    fn ask(&self, servers: &[IpAddr], name: &[u8], deadline: Instant, found: &mut Vec<IpAddr>) -> Result<(), Status> {
        let id = random() as u16;
        let (Some(a), Some(aaaa)) = (dns::query(id, name, A), dns::query(!id, name, AAAA)) else {
            return Err(NO_ADDRESS);
        };
        let mut unable = 0;
        for &server in servers.iter().cycle() {
            let until = deadline.min(Instant::now() + RESEND);
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
        let left = until.saturating_duration_since(Instant::now());
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
