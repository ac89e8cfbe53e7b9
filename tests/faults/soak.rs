//! All faults at once, for `FAULTS_SECONDS`.

use std::env;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::audit::Doubt;
use super::hostile_clients;
use super::load::{CLOSE_DETECTION, Load, StopFlag};
use super::relay::{Fault, Mode, Relay};
use super::rng::Rng;
use crate::support::{Notch, Redis, Settings, wait_until};

#[test]
fn all_faults_at_once() {
    let mut rng = Rng::new();
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes"]);
    let relay = Relay::to(redis.port);
    let short = ["REQUEST_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT", "STORE_TIMEOUT"].iter();
    let settings = short.fold(Settings::redis(relay.port), |settings, name| settings.with(name, "1s"));
    let settings = settings.with("COUNTERS", hostile_clients::COUNTER);
    let notch = settings.with("MAX_CONNECTIONS", &CONNECTIONS.to_string()).start();
    let first = notch.visit();
    thread::sleep(CLOSE_DETECTION);
    let files = notch.files().len() - relay.open_connections();
    let load = Load::start(&notch, 4);
    let hostile = Hostile::to(&notch, &mut rng);

    let length = Duration::from_secs(seconds());
    let start = Instant::now();
    let (mut early, mut late) = (Maximum::default(), Maximum::default());
    early.observe(&notch);
    while start.elapsed() < length {
        inject_fault(&mut redis, &relay, &mut rng);
        thread::sleep(Duration::from_millis(rng.below(200) as u64));
        let most = if start.elapsed() < length / 3 { &mut early } else { &mut late };
        most.observe(&notch);
    }
    relay.disarm();
    load.wait_for_answers(50);
    let visits = hostile.stop();
    let mut tally = load.stop();
    tally.note_number(first);
    wait_until("all connections are closed", || {
        (notch.files().len() <= files + relay.open_connections()).then_some(())
    });
    tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::Possible);
    let theirs = redis.query(&format!("GET visits:{}", hostile_clients::COUNTER)).parse().unwrap_or(0);
    assert!(theirs <= visits, "{theirs} counted of {visits} that hostile clients requested");
    assert!(late.files <= files + CONNECTIONS + SLACK, "{files} files open before, then {late:?}");
    assert!(late.memory <= early.memory + early.memory / 4 + 2048, "memory grows: {early:?}, then {late:?}");
}

/// Injects one fault, and ends it.
fn inject_fault(redis: &mut Redis, relay: &Relay, rng: &mut Rng) {
    let pause = Duration::from_millis(*rng.pick(&[0, 20, 200, 1300]));
    let length = rng.below(40);
    match rng.below(8) {
        0 => {
            redis.kill();
            thread::sleep(pause);
            redis.restart();
        }
        1 => redis.while_stopped(|| thread::sleep(pause)),
        2 => redis.send_without_waiting(&format!("DEBUG SLEEP {}", pause.as_secs_f32())),
        3 => relay.cut(),
        4 => relay.arm(Fault::CutRequest(length)),
        5 => relay.arm(Fault::CutReply(length / 4)),
        6 => relay.arm(
            rng.pick(&[
                Fault::DelayReply(pause),
                Fault::SplitReply,
                Fault::DoubleReply,
                // Not an error reply: Redis never sends one after it has executed the increment.
                Fault::Instead(b":7\r\n"),
                Fault::Instead(b"zebra"),
                Fault::Endless(b'z'),
            ])
            .clone(),
        ),
        _ => {
            relay.set(*rng.pick(&[Mode::Silent, Mode::Close]));
            thread::sleep(pause);
            relay.set(Mode::Pass);
        }
    }
}

/// Hostile clients that change their attack at random times.
struct Hostile {
    stop: StopFlag,
    threads: Vec<JoinHandle<usize>>,
}

impl Hostile {
    fn to(notch: &Notch, rng: &mut Rng) -> Self {
        let stop = StopFlag::default();
        let hostile = |_| {
            let (stop, address, mut rng) = (stop.flag(), notch.address.tcp(), rng.split());
            thread::spawn(move || {
                let all = hostile_clients::all(CONNECTIONS);
                let mut visits = 0;
                while !stop.load(Ordering::Relaxed) {
                    let duration = Duration::from_millis(500 + rng.below(2000) as u64);
                    visits += rng.pick(&all).attack(address, duration);
                }
                visits
            })
        };
        let threads = (0..2).map(hostile).collect();
        Self { stop, threads }
    }

    /// Returns the number of their visits that may have been counted.
    fn stop(self) -> usize {
        drop(self.stop);
        self.threads.into_iter().map(|thread| thread.join().expect("hostile clients do not panic")).sum()
    }
}

/// The maximum of the observed values.
#[derive(Debug, Default)]
struct Maximum {
    files: usize,
    memory: u64,
}

impl Maximum {
    fn observe(&mut self, notch: &Notch) {
        self.files = self.files.max(notch.files().len());
        self.memory = self.memory.max(notch.resident_kilobytes());
    }
}

/// Returns the duration of the test: `FAULTS_SECONDS`.
fn seconds() -> u64 {
    env::var("FAULTS_SECONDS").map_or(20, |seconds| seconds.parse().expect("FAULTS_SECONDS: digits"))
}

/// Value of `MAX_CONNECTIONS`.
const CONNECTIONS: usize = 64;

/// Connections that may be accepted and not yet served, and those to Redis.
const SLACK: usize = 16;
