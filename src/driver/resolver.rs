//! Looking a host up, on the thread that waits for it: the sockets, files and clock around `dns`.
//!
//! The files are read each time: they are small, and a container's may change while it runs. Each name server has a
//! socket of its own that hears nobody else, so the kernel drops what others send, and reports a server that cannot be
//! reached.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::{StoreHealth, remaining};
use crate::dns::{self, Conf, ConfParser, Failure, Hosts, Lookup, MAX_REPLY, Step};
use crate::system;

/// Returns the addresses of `host`, at least one, if they are found before `deadline`.
pub(super) fn look_up(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, StoreHealth> {
    if let Some(address) = dns::address(host.as_bytes(), port, system::interface) {
        return Ok(vec![address]);
    }
    if host.contains(':') {
        return Err(NO_INTERFACE);
    }
    let mut listed = Hosts::new(host, port, system::interface);
    read_file("/etc/hosts", deadline, &mut |piece| listed.read(piece));
    let listed = listed.finish();
    if !listed.is_empty() {
        return Ok(listed);
    }
    let mut found = dns::loopback(host);
    if found.is_empty() {
        found = query_servers(&read_conf(deadline), host, deadline)?;
    }
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn read_conf(deadline: Instant) -> Conf {
    let mut parser = ConfParser::new(system::interface);
    read_file("/etc/resolv.conf", deadline, &mut |piece| parser.read(piece));
    parser.finish(&system::read("/proc/sys/kernel/hostname"))
}

/// A file that cannot be read is as good as an empty one, and no file takes longer than until `deadline`.
fn read_file(path: &str, deadline: Instant, take: &mut dyn FnMut(&[u8])) {
    system::read_pieces(path.as_ref(), &mut |piece| {
        take(piece);
        !remaining(deadline).is_zero()
    })
    .unwrap_or_default();
}

/// Asks the name servers.
fn query_servers(conf: &Conf, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, StoreHealth> {
    let begin = Instant::now();
    let sockets: Vec<_> = conf.servers.iter().map(|&server| open(server).ok()).collect();
    let mut lookup = Lookup::new(conf, host, remaining(deadline).as_millis() as u64, system::random);
    loop {
        match lookup.poll(since(begin)) {
            Step::Send(server, query) => {
                let sent = sockets[server].as_ref().map_or(Err(ErrorKind::NotConnected.into()), |one| one.send(query));
                // What finds no room on its way is lost, as datagrams are.
                if sent.is_err_and(|error| !is_full(&error)) {
                    lookup.mark_unreachable(server);
                }
            }
            Step::Connect(server, query, until) => {
                let until = begin + Duration::from_millis(until);
                if let Ok(reply) = query_over_tcp(conf.servers[server], query, until) {
                    lookup.receive(server, &reply, since(begin));
                }
                receive(&sockets, &mut lookup, begin);
            }
            Step::Wait(until) => {
                wait(&sockets, until.saturating_sub(since(begin)));
                receive(&sockets, &mut lookup, begin);
            }
            Step::Done(result) => return result.map_err(status),
        }
    }
}

/// A socket that sends to this server alone and hears it alone.
fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}

/// Waits until a server has sent something, for so many milliseconds at most.
fn wait(sockets: &[Option<UdpSocket>], time: u64) {
    let mut events: Vec<_> =
        sockets.iter().flatten().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    // Whatever is reported is found by reading, and a signal in between does no harm.
    let _ = poll(&mut events, u16::try_from(time).unwrap_or(u16::MAX));
}

/// Takes what the servers have sent.
fn receive(sockets: &[Option<UdpSocket>], lookup: &mut Lookup<'_>, begin: Instant) {
    let mut datagram = [0; MAX_REPLY];
    for (server, socket) in sockets.iter().enumerate() {
        let Some(socket) = socket else { continue };
        // A server that floods us is not read for longer than one that does not.
        for _ in 0..MAX_DATAGRAMS {
            match socket.recv(&mut datagram) {
                Ok(length) => lookup.receive(server, &datagram[..length], since(begin)),
                Err(error) if is_full(&error) => break,
                Err(_) => {
                    lookup.mark_unreachable(server);
                    break;
                }
            }
        }
    }
}

/// Sends a query over TCP, where a length of two bytes precedes each message (RFC 7766, section 8), and returns the
/// reply.
fn query_over_tcp(server: SocketAddr, query: &[u8], until: Instant) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect_timeout(&server, remaining_or_timeout(until)?)?;
    socket.set_write_timeout(Some(remaining_or_timeout(until)?))?;
    socket.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    read_exact(&mut socket, &mut length, until)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length)).min(MAX_REPLY)];
    read_exact(&mut socket, &mut reply, until)?;
    Ok(reply)
}

/// As [`Read::read_exact`], within a time.
fn read_exact(socket: &mut TcpStream, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.set_read_timeout(Some(remaining_or_timeout(until)?))?;
        match socket.read(bytes)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => bytes = &mut bytes[length..],
        }
    }
    Ok(())
}

/// The time until then, which a timeout of a socket takes only if there is some.
fn remaining_or_timeout(until: Instant) -> io::Result<Duration> {
    let left = remaining(until);
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether a socket only has nothing to read, or no room to write.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Milliseconds that have passed.
fn since(begin: Instant) -> u64 {
    begin.elapsed().as_millis() as u64
}

fn status(failure: Failure) -> StoreHealth {
    StoreHealth::Away(match failure {
        Failure::NoSuchName => "DNS lookup of the Redis host failed: no such name; check REDIS_HOST",
        Failure::NoAddress => "DNS lookup of the Redis host failed: the name has no address; check REDIS_HOST",
        Failure::NoServer => "DNS lookup of the Redis host failed: no name server answered; check /etc/resolv.conf",
        Failure::ServerFailed => "DNS lookup of the Redis host failed: the name servers report a failure of their own",
        Failure::Truncated => {
            "DNS lookup of the Redis host failed: the reply is too long for UDP, and the name server does not answer \
             over TCP"
        }
    })
}

const NO_INTERFACE: StoreHealth =
    StoreHealth::Away("the Redis host is no IPv6 address, or one of a network interface that does not exist");

/// Most datagrams of one server that are read before the others have their turn.
const MAX_DATAGRAMS: usize = 16;
