//! Two sides of a network that can be cut, for a test that runs in namespaces of its own.
//!
//! Each side is a network namespace with one address. A bridge in the namespace of the test joins both; without a port
//! of the bridge a side reaches nothing, and gets no error: packets vanish, as behind a switch that has failed. The
//! test reaches each side on a link of its own, so that there are clients on both.

use std::process::Command;

use crate::support::{Recipe, Settings};

/// A network namespace with one address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Left,
    Right,
}

pub(crate) struct Network;

impl Network {
    /// Makes both sides, and joins them.
    pub(crate) fn new() -> Self {
        // `ip netns` keeps its files there.
        run("mount -t tmpfs tmpfs /run");
        run("ip link add data type bridge");
        run("ip link set data up");
        for side in [Side::Left, Side::Right] {
            let (name, address, [near, far]) = (side.name(), side.address(), side.control());
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip link add {name}-data type veth peer name data netns {name}"));
            run(&format!("ip -n {name} address add {address}/24 dev data"));
            run(&format!("ip -n {name} link set data up"));
            run(&format!("ip link set {name}-data master data up"));
            run(&format!("ip link add {name} type veth peer name control netns {name}"));
            run(&format!("ip address add {near}/30 dev {name}"));
            run(&format!("ip link set {name} up"));
            run(&format!("ip -n {name} address add {far}/30 dev control"));
            run(&format!("ip -n {name} link set control up"));
            run(&format!("ip route add {address} via {far}"));
        }
        Self
    }

    /// Cuts the sides off from each other.
    pub(crate) fn cut(&self) {
        run("ip link set left-data nomaster");
    }

    pub(crate) fn join(&self) {
        run("ip link set left-data master data");
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::Left => "10.77.0.1",
            Self::Right => "10.77.0.2",
        }
    }

    /// Addresses of the link to the test: its own, and that of the side.
    fn control(self) -> [&'static str; 2] {
        match self {
            Self::Left => ["10.78.0.1", "10.78.0.2"],
            Self::Right => ["10.78.0.5", "10.78.0.6"],
        }
    }

    fn wrapper(self) -> [&'static str; 4] {
        ["ip", "netns", "exec", self.name()]
    }

    /// Starts a server on this side.
    pub(crate) fn recipe(self, recipe: Recipe) -> Recipe {
        let program = self.wrapper().into_iter().map(Into::into).chain(recipe.program).collect();
        let recipe = Recipe { program, address: self.address().into(), ..recipe };
        recipe.with(&["--protected-mode", "no"])
    }

    /// Starts notch on this side.
    pub(crate) fn settings(self, settings: Settings) -> Settings {
        settings.with_wrapper(&self.wrapper()).with("LISTEN", &format!("{}:0", self.address()))
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error} (Debian: apt-get install iproute2 mount)"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
