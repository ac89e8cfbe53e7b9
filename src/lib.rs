//! notch counts visits: a tiny HTTP/1.1 server in front of a counter in Redis, or in a file of its own.
//!
//! The program `notch` is that server, and this is the library in it. A sans-IO core turns bytes into bytes and has no
//! socket, clock, thread or `async`; a thin driver owns those. A driver on `std::net`, for one client at a time:
//!
//! ```
//! use std::io::{self, Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::time::SystemTime;
//! use std::{env, fs, process, thread};
//!
//! use notch::buffers::Buffers;
//! use notch::connection::{HttpConnection, Need, ServerContext, WorkerContext};
//! use notch::counter::{Command, Counters, Key, NameLimit, Names};
//! use notch::ledger::{Fsync, Ledger};
//!
//! fn serve(mut socket: TcpStream, server: &ServerContext, ledger: &mut Ledger) -> io::Result<()> {
//!     let (mut connection, mut buffers) = (HttpConnection::default(), Buffers::default());
//!     let mut worker = WorkerContext::default();
//!     loop {
//!         worker.set_time(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
//!         let need = connection.advance(server, &mut worker, &mut buffers);
//!         socket.write_all(&buffers.take_unsent())?;
//!         match need {
//!             Need::Request | Need::Bytes(_) => {
//!                 let mut chunk = [0; 1024];
//!                 let space = buffers.space().min(chunk.len());
//!                 let length = socket.read(&mut chunk[..space])?;
//!                 if length == 0 {
//!                     return Ok(());
//!                 }
//!                 buffers.receive(&chunk[..length]);
//!             }
//!             Need::Store => {
//!                 let mut results = Vec::new();
//!                 ledger.commit(&[connection.command()], &mut results);
//!                 connection.complete(results[0], server, &mut worker, &mut buffers);
//!             }
//!             Need::Totals => {
//!                 let mut results = Vec::new();
//!                 let reads: Vec<_> = connection.counters().iter().map(|&key| Command::Get { key }).collect();
//!                 ledger.commit(&reads, &mut results);
//!                 connection.complete_totals(results.into_iter().collect(), server, &mut worker, &mut buffers);
//!             }
//!             Need::Room => {}
//!             Need::Close => return Ok(()),
//!         }
//!     }
//! }
//!
//! let main = Key::new(b"visits").ok_or("invalid key")?;
//! let server = ServerContext::new(Counters { main, names: Names::Any });
//! let path = env::temp_dir().join(format!("notch-{}.ledger", process::id()));
//! let (mut ledger, _) = Ledger::open(&path, Fsync::Always, NameLimit { main, most: 100 })?;
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! thread::spawn(move || {
//!     for socket in listener.incoming().flatten() {
//!         let _ = serve(socket, &server, &mut ledger);
//!     }
//! });
//!
//! // A visitor, as curl would be.
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"GET /count HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
//! let mut response = String::new();
//! client.read_to_string(&mut response)?;
//! assert!(response.starts_with("HTTP/1.1 200 OK\r\n"));
//! assert!(response.ends_with("\r\n\r\n1\n"));
//! fs::remove_file(path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The path of a visit in a driver for many clients:
//!
//! 1. The driver fills a [`buffers::Buffers`] from a socket.
//! 2. [`connection::HttpConnection`] parses a request and needs a total.
//! 3. The [`counter::Command`] joins a [`batch::Batch`], which collects commands while the one before is in flight.
//! 4. A [`redis::Session`] or the [`ledger::Ledger`] applies the batch as one increment for each counter.
//! 5. Each waiter of the batch receives a number of its own, and the connection writes the response.
//!
//! **In scope:** counting exactly once, HTTP framing, RESP2, group commit, a durable file.
//!
//! **Out of scope:** TLS and HTTP/2 for visitors (the load balancer terminates both), RESP3, unique visitors, rate
//! limits.
//!
//! **Features:** `tokio` (default) is the driver on tokio; without it, the one on threads serves. `tls` adds TLS to
//! Redis (`rediss://`) to either of them.
//!
//! **Public:** the modules below, which are what a driver uses. Until version 1.0, a new minor version may change
//! them, and its section in the changelog names each change. The other modules that can be reached are hidden, because
//! they exist for the program, its tests and its fuzzers; any version may change them.
//!
//! The modules are declared in dependency order: each uses only modules declared above it.

pub mod counter;
mod decimal;
mod backoff;
mod date;
pub mod buffers;
#[doc(hidden)]
pub mod resp;
pub mod batch;
pub mod redis;
pub mod ledger;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod badge;
#[doc(hidden)]
pub mod cors;
#[doc(hidden)]
pub mod routes;
pub mod metrics;
pub mod connection;
#[doc(hidden)]
pub mod dns;
mod system;
mod cgroup;
mod memory;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod probe;
