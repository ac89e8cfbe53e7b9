//! The simulator's model of our script does what the script does on real servers: the same random calls to both, with
//! equal replies and equal keys after each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::engine::Engine;
use crate::model::{Content, Kind, Rules, Value, call};
use crate::on_engines;
use crate::support::fake::{Action, Data, Fake};
use crate::support::rng::Rng;
use crate::support::{Redis, Settings, wait_until};

on_engines! {
    calls_of_the_script: debian, redis_8_2, valkey_9_1;
}

/// The keys of a server, and the model of them.
struct Pair {
    redis: Redis,
    /// The digest of the script.
    digest: String,
    model: BTreeMap<Vec<u8>, Value>,
    rng: Rng,
    /// The last sequence number of each producer.
    sequences: [u64; 2],
    /// What was found, and in how many calls.
    found: BTreeMap<String, usize>,
}

fn calls_of_the_script(engine: Engine) {
    let redis = Redis::of(engine.recipe());
    let digest = redis.query(&format!("SCRIPT LOAD \"{}\"", script_of_notch().replace('\n', "\\n")));
    assert_eq!(digest.len(), 40, "{digest}");
    let mut pair = Pair {
        redis,
        digest,
        model: BTreeMap::new(),
        rng: Rng::new(),
        sequences: [FIRST_SEQUENCE; 2],
        found: BTreeMap::new(),
    };
    for number in 0..CALLS {
        if number % 50 == 0 {
            pair.redis.execute("FLUSHALL");
            pair.model.clear();
        }
        if pair.rng.below(3) == 0 {
            pair.set_by_hand();
        }
        pair.call(number);
    }
    println!("{:?}", pair.found);
    for expected in
        ["First", "Raised", "Repeated", "Late", "LimitReached", "expired", "WRONGTYPE", "ERR value", "ERR incr"]
    {
        assert!(pair.found.keys().any(|found| found.starts_with(expected)), "no {expected} in {:?}", pair.found);
    }
}

/// Returns the script that notch loads.
fn script_of_notch() -> String {
    let data: Arc<Mutex<Data>> = Arc::default();
    let fake = Fake::start(&data, |_| Action::Execute);
    let _notch = Settings::redis(fake.port).start();
    wait_until("notch loads its script", || {
        fake.commands().iter().find_map(|command| command.strip_prefix("SCRIPT LOAD ").map(str::to_owned))
    })
}

impl Pair {
    /// Sets or removes one of the keys.
    fn set_by_hand(&mut self) {
        let key = *self.rng.pick(&KEYS);
        let value = *self.rng.pick(&VALUES);
        match value {
            "" => {
                self.redis.execute(&format!("DEL {key}"));
                self.model.remove(key.as_bytes());
            }
            "set" => {
                self.redis.execute(&format!("DEL {key}"));
                self.redis.execute(&format!("SADD {key} x y"));
                let members: BTreeSet<_> = [b"x".to_vec(), b"y".to_vec()].into();
                self.model.insert(key.into(), Value { content: Content::Set(members), expires: None });
            }
            text => {
                self.redis.execute(&format!("SET {key} {text}"));
                self.model.insert(key.into(), Value::text(text.as_bytes()));
            }
        }
    }

    fn call(&mut self, number: usize) {
        let counter = *self.rng.pick(&COUNTERS);
        let producer = self.rng.below(2);
        // Mostly the next batch, sometimes the same again, or one that is late.
        let next = *self.rng.pick(&[1, 1, 1, 1, 0, 0, -1]);
        let sequence = self.sequences[producer].saturating_add_signed(next);
        self.sequences[producer] = sequence.max(self.sequences[producer]);
        let has_limit = self.rng.below(2) == 0;
        let receipt = format!("{{visits}}:receipt:{producer}:{counter}");
        let mut keys = vec![counter, &receipt];
        if has_limit {
            keys.push(NAMES);
        }
        // The receipt expires before the next call, or after the last one.
        let is_short = self.rng.below(8) == 0;
        let (sequence, by) = (sequence.to_string(), *self.rng.pick(&["0", "1", "2", "17", "9223372036854775807"]));
        let mut arguments = vec![if is_short { "1" } else { "600000" }, &sequence, by];
        let floor = self.rng.below(3) == 0;
        if has_limit || floor {
            arguments.push(if has_limit { *self.rng.pick(&["0", "1", "2", "10000"]) } else { "0" });
        }
        if floor {
            arguments.push(*self.rng.pick(&FLOORS));
        }
        let command = format!("EVALSHA {} {} {} {}", self.digest, keys.len(), keys.join(" "), arguments.join(" "));
        let reply = self.redis.query(&command);
        let [key_bytes, argument_bytes] =
            [&keys, &arguments].map(|words| words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let rules = Rules { rewrites_receipts: true, has_floor: true };
        let outcome = call(|key| self.model.get(key).cloned(), &key_bytes, &argument_bytes, 1, rules);
        let context = format!("call {number}: {command}: {reply}");
        match &outcome.reply {
            Ok(total) => assert_eq!(reply.as_bytes(), total, "{context}"),
            // Servers add the place in the script, before or after it.
            Err(error) => assert!(reply.starts_with('-') && reply.contains(error), "{context}, {error}"),
        }
        self.note(&format!("{:?}", outcome.kind));
        if outcome.kind == Kind::First {
            self.note(outcome.reply.err().unwrap_or_default());
        }
        let has_receipt = outcome.writes.iter().any(|(key, _)| key == receipt.as_bytes());
        for (key, value) in outcome.writes {
            match value {
                Some(value) => self.model.insert(key, value),
                None => self.model.remove(&key),
            };
        }
        if is_short && has_receipt {
            self.model.remove(receipt.as_bytes());
            wait_until("the receipt expires", || (self.redis.query(&format!("EXISTS {receipt}")) == "0").then_some(()));
            self.note("expired");
        }
        assert_eq!(self.keys_of_the_server(), self.keys_of_the_model(), "after {context}");
    }

    fn note(&mut self, found: &str) {
        if !found.is_empty() {
            *self.found.entry(found.to_owned()).or_default() += 1;
        }
    }

    /// Returns each key with its value and whether it expires.
    fn keys_of_the_server(&self) -> BTreeMap<String, String> {
        let reply = self.redis.query(&format!("EVAL \"{DUMP}\" 0"));
        let lines: Vec<_> = reply.split('\n').filter(|line| !line.is_empty()).collect();
        lines.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }

    fn keys_of_the_model(&self) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = |value: &Value| match &value.content {
            Content::Text(content) if value.expires.is_some() => format!("expiring {}", text(content)),
            Content::Text(content) => format!("text {}", text(content)),
            Content::Set(members) => {
                format!("set {}", members.iter().map(|member| text(member)).collect::<Vec<_>>().join(","))
            }
        };
        self.model.iter().map(|(key, content)| (text(key), value(content))).collect()
    }
}

const CALLS: usize = 3000;

const FIRST_SEQUENCE: u64 = 1_000_000_000_000_001;

const COUNTERS: [&str; 3] = ["{visits}:a", "{visits}:b", "{visits}:c"];

const NAMES: &str = "{visits}:<names>";

/// Keys that are set by hand: counters, the set of names, and a receipt.
const KEYS: [&str; 5] = [COUNTERS[0], COUNTERS[1], COUNTERS[2], NAMES, "{visits}:receipt:0:{visits}:a"];

/// What they are set to: nothing, a set, numbers, and texts that are none.
const VALUES: [&str; 16] = [
    "",
    "",
    "set",
    "0",
    "7",
    "99",
    "1000000",
    "-3",
    "-0",
    "007",
    "1.5",
    "zebra",
    "9007199254740993",
    "9223372036854775806",
    "-9223372036854775808",
    "99999999999999999999",
];

const FLOORS: [&str; 7] = ["1", "8", "10", "99", "1000001", "9007199254740993", "9223372036854775807"];

/// Returns the key and the value of each key, on two lines.
const DUMP: &str = "local lines={} \
    for _,key in ipairs(redis.call('KEYS','*')) do \
    local kind=redis.call('TYPE',key).ok local value \
    if kind=='set' then local all=redis.call('SMEMBERS',key) table.sort(all) value='set '..table.concat(all,',') \
    elseif redis.call('PTTL',key)<0 then value='text '..redis.call('GET',key) \
    else value='expiring '..redis.call('GET',key) end \
    lines[#lines+1]=key lines[#lines+1]=value end return lines";
