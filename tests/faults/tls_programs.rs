//! Other programs with TLS before, or instead of, Redis: `openssl s_server`, stunnel and HAProxy.
//!
//! The Redis behind stunnel and HAProxy is `REDIS_SERVER`, as for the other suites, so those without TLS of their own
//! are tried too.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::audit::LOST_CONNECTION;
use super::load::Load;
use crate::support::fake::{Data, execute};
use crate::support::tls::{authority, write};
use crate::support::{Folder, NEVER, Notch, Recipe, Redis, Settings, free_port, read_command, signal, wait_until};

/// A program that listens on a port, as long as it is not dropped.
struct Program {
    child: Child,
    arguments: Vec<String>,
    port: u16,
}

impl Program {
    fn start(arguments: Vec<String>, port: u16) -> Self {
        let child = Self::spawn(&arguments);
        let program = Self { child, arguments, port };
        program.wait_for_port();
        program
    }

    fn spawn(arguments: &[String]) -> Child {
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("{} is missing: run scripts/test ({error})", arguments[0]))
    }

    fn wait_for_port(&self) {
        let connect = || TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop);
        wait_until(&format!("{} listens", self.arguments[0]), connect);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = Self::spawn(&self.arguments);
        self.wait_for_port();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(String::from).collect()
}

fn stunnel(folder: &Folder, redis: u16) -> Program {
    let (port, [certificate, key]) = (free_port(), authority().issue(&["127.0.0.1"]).write(folder.path(), "stunnel"));
    let conf = format!(
        "foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [redis]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{redis}\ncert = {certificate}\nkey = {key}\n"
    );
    Program::start(words(&format!("stunnel {}", write(folder.path(), "stunnel.conf", &conf))), port)
}

fn haproxy(folder: &Folder, redis: u16) -> Program {
    let (port, identity) = (free_port(), authority().issue(&["127.0.0.1"]));
    let both = write(folder.path(), "both.pem", &format!("{}{}", identity.pem(), identity.key_pem()));
    let conf = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen redis\n  bind 127.0.0.1:{port} ssl crt {both}\n  server redis 127.0.0.1:{redis}\n"
    );
    Program::start(words(&format!("haproxy -db -f {}", write(folder.path(), "haproxy.cfg", &conf))), port)
}

#[test]
fn behind_stunnel_no_answered_visit_is_lost() {
    assert_counts_behind(stunnel);
}

#[test]
fn behind_haproxy_no_answered_visit_is_lost() {
    assert_counts_behind(haproxy);
}

/// Kills and stops the Redis and the program before it under load, and audits.
fn assert_counts_behind(start: fn(&Folder, u16) -> Program) {
    let folder = Folder::new("before-redis");
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Redis::of(Recipe { is_plain: true, ..Recipe::default() }.with(&durable));
    let mut program = start(&folder, redis.port);
    let notch = Settings::redis(program.port).with("WORKERS", "2").with("STORE_TIMEOUT", NEVER).start();
    let load = Load::start(&notch, 4);
    for _ in 0..2 {
        load.wait_for_answers(100);
        redis.kill();
        redis.restart();
        load.wait_for_answers(100);
        program.restart();
        load.wait_for_answers(100);
        signal(program.child.id(), "STOP");
        thread::sleep(Duration::from_millis(1500));
        signal(program.child.id(), "CONT");
    }
    load.wait_for_answers(100);
    let tally = load.stop();
    assert_eq!(tally.refused, 0, "{tally:?}");
    tally.audit(redis.query("GET visits").parse().expect("a count"), LOST_CONNECTION);
}

/// `openssl s_server` as a Redis: it prints what notch sends, and sends what is written to it. A line with one letter
/// is a command for the program itself.
struct OpenSsl {
    program: Program,
    data: Arc<Mutex<Data>>,
}

impl OpenSsl {
    /// Starts it with further options. Before the reply to the first visit, it gets `commands`.
    fn start(folder: &Folder, options: &str, commands: &'static [&'static str]) -> Self {
        let (port, [certificate, key]) = (free_port(), authority().issue(&["127.0.0.1"]).write(folder.path(), "peer"));
        let ca = write(folder.path(), "ca.pem", &authority().pem);
        let arguments =
            format!("openssl s_server -accept 127.0.0.1:{port} -cert {certificate} -key {key} -CAfile {ca} {options}");
        let mut program = Program::start(words(arguments.trim_end()), port);
        let (input, output) = (program.child.stdin.take(), program.child.stdout.take());
        let (input, output) = (input.expect("a pipe"), output.expect("a pipe"));
        let data = Arc::<Mutex<Data>>::default();
        let own = data.clone();
        thread::spawn(move || serve(input, BufReader::new(output), &own, commands));
        Self { program, data }
    }

    fn settings(&self) -> Settings {
        Settings::redis(self.program.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER)
    }

    fn total(&self) -> i64 {
        self.data.lock().expect("no panic").total
    }
}

fn serve(mut input: ChildStdin, mut output: BufReader<ChildStdout>, data: &Mutex<Data>, commands: &[&str]) {
    let mut ended = commands.contains(&"r").then_some(());
    let mut commands = commands.iter();
    loop {
        // Lines about the connection are between the commands of Redis.
        match output.fill_buf() {
            Ok([b'*', ..]) => {}
            Ok([_, ..]) => {
                let mut line = Vec::new();
                let _ = output.read_until(b'\n', &mut line);
                continue;
            }
            _ => return,
        }
        let Some(Some(command)) = read_command(&mut output) else { continue };
        let reply = format!("{}\r\n", execute(&command, data));
        let is_visit = command.starts_with("ONCE visits 1");
        if is_visit {
            for command in commands.by_ref() {
                // It reads each line by itself if the next one comes later.
                let _ = input.write_all(format!("{command}\n").as_bytes());
                thread::sleep(Duration::from_millis(100));
            }
        }
        // After a refused renegotiation, it would be the first bytes on the next connection.
        let is_ended = is_visit && ended.take().is_some();
        if !is_ended && input.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn openssl_is_a_peer_for_every_version_and_feature() {
    let folder = Folder::new("openssl");
    for (options, commands) in [
        ("-tls1_2", &[][..]),
        ("-tls1_3", &[]),
        ("-tls1_3 -num_tickets 50", &[]),
        // Its own key, and both keys.
        ("-tls1_3", &["k", "K", "k", "K"]),
        // It requests a renegotiation, which is refused, and then ends the connection.
        ("-tls1_2", &["r"]),
        // It ends the connection with a reply due.
        ("-tls1_2", &["q"]),
        ("-tls1_3", &["q"]),
        ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", &[]),
        ("-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256 -groups P-384", &[]),
        ("-tls1_3 -split_send_frag 512 -max_send_frag 512", &[]),
    ] {
        let peer = OpenSsl::start(&folder, options, commands);
        let notch = peer.settings().start();
        if commands == ["q"] {
            // The program has ended, so the visit waits for it.
            let mut client = notch.client();
            client.send_request("GET", "/count", &[]);
            wait_until("it is counted", || (peer.total() == 1).then_some(()));
            wait_until("the end is noticed", || (!reasons(&notch).is_empty()).then_some(()));
            continue;
        }
        assert_eq!((notch.visit(), notch.visit()), (1, 2), "{options} {commands:?}");
        assert_eq!(peer.total(), 2, "{options} {commands:?}");
    }
}

#[test]
fn what_openssl_refuses_or_lacks_has_its_line() {
    let folder = Folder::new("openssl");
    for (options, reason) in [
        ("-tls1_1 -cipher DEFAULT@SECLEVEL=0", "no common TLS version or algorithm"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", "no common TLS version or algorithm"),
        ("-tls1_2 -Verify 1", "the server requires a client certificate"),
        ("-tls1_3 -Verify 1", "the server requires a client certificate"),
    ] {
        let peer = OpenSsl::start(&folder, options, &[]);
        let notch = peer.settings().with("STORE_TIMEOUT", "1s").start();
        notch.get("/count").assert_not_counted();
        let lines = reasons(&notch);
        assert!(lines.len() == 1 && lines[0].contains(reason), "{options}: {:#?}", notch.log());
        assert_eq!(peer.total(), 0);
    }
}

#[test]
fn a_client_certificate_is_shown_to_openssl() {
    let folder = Folder::new("openssl");
    for options in ["-tls1_2 -Verify 1", "-tls1_3 -Verify 1 -verify_return_error"] {
        let peer = OpenSsl::start(&folder, options, &[]);
        let [certificate, key] = authority().issue(&["notch"]).write(folder.path(), "notch");
        let notch = peer.settings().with("REDIS_CLIENT_CERT", &certificate).with("REDIS_CLIENT_KEY", &key).start();
        assert_eq!((notch.visit(), notch.visit()), (1, 2), "{options}");
    }
}

/// Returns the lines of the log about a store that does not count.
fn reasons(notch: &Notch) -> Vec<String> {
    notch.log().into_iter().filter(|line| line.contains("the store does not count")).collect()
}
