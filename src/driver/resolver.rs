//! Host lookup that blocks the calling thread: the sockets, files and clock around `dns`.
//!
//! The files are read each time: they are small, and a container's may change while it runs. Each name server has its
//! own connected socket, so that the kernel drops datagrams from other senders and reports an unreachable server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::{StoreHealth, remaining, remaining_or_timeout};
use crate::dns::{self, Conf, ConfParser, Failure, Hosts, Lookup, MAX_REPLY, Step};
use crate::system;

/// Returns the addresses of `host`, at least one, if they are found before `deadline`.
pub(super) fn look_up(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, StoreHealth> {
    if let Some(address) = dns::parse_address(host.as_bytes(), port, system::interface_index) {
        return Ok(vec![address]);
    }
    if host.contains(':') {
        return Err(NO_INTERFACE);
    }
    let mut hosts = Hosts::new(host, port, system::interface_index);
    read_file("/etc/hosts", deadline, &mut |piece| hosts.read(piece));
    let listed = hosts.finish();
    if !listed.is_empty() {
        return Ok(listed);
    }
    let mut found = dns::loopback_addresses(host);
    if found.is_empty() {
        found = query_servers(&read_conf(deadline), host, deadline)?;
    }
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn read_conf(deadline: Instant) -> Conf {
    let mut parser = ConfParser::new(system::interface_index);
    read_file("/etc/resolv.conf", deadline, &mut |piece| parser.read(piece));
    parser.finish(&system::read_or_empty("/proc/sys/kernel/hostname"))
}

/// Reads a file in pieces until `deadline`. A file that cannot be read is treated as empty.
fn read_file(path: &str, deadline: Instant, consume: &mut dyn FnMut(&[u8])) {
    system::read_pieces(path.as_ref(), &mut |piece| {
        consume(piece);
        !remaining(deadline).is_zero()
    })
    .unwrap_or_default();
}

/// Sends the queries to the name servers until the lookup is done or `deadline` has passed.
fn query_servers(conf: &Conf, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, StoreHealth> {
    let begin = Instant::now();
    let sockets: Vec<_> = conf.servers.iter().map(|&server| open_socket(server).ok()).collect();
    let mut lookup = Lookup::new(conf, host, remaining(deadline).as_millis() as u64, system::random_bits);
    loop {
        match lookup.poll(millis_since(begin)) {
            Step::Send(server, query) => {
                let sent = sockets[server].as_ref().map_or(Err(ErrorKind::NotConnected.into()), |one| one.send(query));
                // A datagram that finds the socket's buffer full is lost, as it may be in the network.
                if sent.is_err_and(|error| !would_block(&error)) {
                    lookup.mark_unreachable(server);
                }
            }
            Step::Connect(server, query, until) => {
                let until = begin + Duration::from_millis(until);
                if let Ok(reply) = query_over_tcp(conf.servers[server], query, until) {
                    lookup.receive(server, &reply, millis_since(begin));
                }
                receive(&sockets, &mut lookup, begin);
            }
            Step::Wait(until) => {
                wait(&sockets, until.saturating_sub(millis_since(begin)));
                receive(&sockets, &mut lookup, begin);
            }
            Step::Done(result) => return result.map_err(health_of),
        }
    }
}

/// Opens a socket that is connected to this server.
fn open_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}

/// Waits until a server has sent a datagram, for at most `timeout` milliseconds.
fn wait(sockets: &[Option<UdpSocket>], timeout: u64) {
    let mut events: Vec<_> =
        sockets.iter().flatten().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    // Reading finds what was reported, so errors and interruption by a signal are ignored.
    let _ = poll(&mut events, u16::try_from(timeout).unwrap_or(u16::MAX));
}

/// Reads the datagrams that the servers have sent.
fn receive(sockets: &[Option<UdpSocket>], lookup: &mut Lookup<'_>, begin: Instant) {
    let mut datagram = [0; MAX_REPLY];
    for (server, socket) in sockets.iter().enumerate() {
        let Some(socket) = socket else { continue };
        // The bound prevents one server that sends many datagrams from delaying the others.
        for _ in 0..MAX_DATAGRAMS {
            match socket.recv(&mut datagram) {
                Ok(length) => lookup.receive(server, &datagram[..length], millis_since(begin)),
                Err(error) if would_block(&error) => break,
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

/// Does the same as [`Read::read_exact`], until `until` at most.
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

/// Returns whether a socket only would block, or was interrupted.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Returns the milliseconds since `begin`.
fn millis_since(begin: Instant) -> u64 {
    begin.elapsed().as_millis() as u64
}

fn health_of(failure: Failure) -> StoreHealth {
    StoreHealth::Down(match failure {
        Failure::NoSuchName => "DNS lookup of the Redis host failed: no such name; check REDIS_HOST",
        Failure::NoAddress => "DNS lookup of the Redis host failed: the name has no address; check REDIS_HOST",
        Failure::NoServer => "DNS lookup of the Redis host failed: no name server answered; check /etc/resolv.conf",
        Failure::ServerFailed => "DNS lookup of the Redis host failed: the name servers returned an error",
        Failure::Truncated => {
            "DNS lookup of the Redis host failed: the reply is too long for UDP, and the name server does not answer \
             over TCP"
        }
    })
}

const NO_INTERFACE: StoreHealth =
    StoreHealth::Down("REDIS_HOST is not an IPv6 address, or names a network interface that does not exist");

/// Most datagrams that are read from one server before the next server.
const MAX_DATAGRAMS: usize = 16;
