use super::*;

/// Parses a file in pieces of every length and compares the results.
fn confs(text: &[u8], hostname: &str) -> Conf {
    let parse = |length: usize| {
        let mut parser = ConfParser::new(interfaces);
        text.chunks(length).for_each(|piece| parser.read(piece));
        parser.finish(hostname)
    };
    let whole = parse(text.len().max(1));
    for length in 1..text.len() {
        assert_eq!(parse(length), whole, "{length}");
    }
    whole
}

fn listed(text: &[u8], host: &str) -> String {
    let parse = |length: usize| {
        let mut hosts = Hosts::new(host, 6379, interfaces);
        text.chunks(length).for_each(|piece| hosts.read(piece));
        hosts.finish()
    };
    let whole = parse(text.len().max(1));
    for length in 1..text.len().min(300) {
        assert_eq!(parse(length), whole, "{length}");
    }
    written(&whole)
}

fn interfaces(name: &str) -> Option<u32> {
    (name == "eth0").then_some(7)
}

fn written(addresses: &[SocketAddr]) -> String {
    let write = |address: &SocketAddr| match address {
        SocketAddr::V6(address) if address.scope_id() > 0 => format!("{}%{}", address.ip(), address.scope_id()),
        address => address.ip().to_string(),
    };
    addresses.iter().map(write).collect::<Vec<_>>().join(" ")
}

fn names(conf: &Conf, host: &str) -> String {
    let names = conf.candidates(host).into_iter();
    names.map(|name| String::from_utf8_lossy(&name).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn resolv_conf_has_servers_and_domains() {
    for (text, servers, host, expected) in [
        (&b""[..], "127.0.0.1", "redis", "redis"),
        (b"nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.11", "redis", "redis"),
        (b"nameserver 10.0.0.1\nnameserver ::1", "10.0.0.1 ::1", "redis", "redis"),
        (
            b"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
            "1.1.1.1 1.1.1.2 1.1.1.3",
            "r",
            "r",
        ),
        (b"nameserver 1.1.1.1\nnameserver x\nnameserver 1.1.1.1\nnameserver ::2\n", "1.1.1.1 ::2", "r", "r"),
        (b"nameserver fe80::1%eth1\nnameserver fe80::1%eth0\nnameserver fe80::1%2\n", "fe80::1%7 fe80::1%2", "r", "r"),
        (b"nameserver\nnameserver x\nserver 1.1.1.1\nnameserver 1.1.1.1%eth0", "127.0.0.1", "r", "r"),
        (b"# nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver 2.2.2.2 # here", "2.2.2.2", "r", "r"),
        (b"nameserver 2.2.2.2#here\nnameserver 3.3.3.3;", "2.2.2.2 3.3.3.3", "r", "r"),
        (b"\xff\xfe # caf\xe9\nnameserver 1.1.1.1 # caf\xe9\n\xe9\n", "1.1.1.1", "r", "r"),
        (b"nameserver \xe9\nnameserver 1.1.1.1\nnameserver\x001.1.1.2", "1.1.1.1", "r", "r"),
        (b"search a.org b.org\n", "127.0.0.1", "redis", "redis.a.org redis.b.org redis"),
        (b"search a.org\ndomain b.org\n", "127.0.0.1", "redis", "redis.b.org redis"),
        (b"search a.org\nsearch\n", "127.0.0.1", "redis", "redis"),
        (b"search .\n", "127.0.0.1", "redis", "redis"),
        (b"search . a.org\n", "127.0.0.1", "redis", "redis redis.a.org"),
        (b"search a.org. .b.org\n", "127.0.0.1", "redis", "redis.a.org redis.b.org redis"),
        (b"search a.org A\xe9.org a.org\n", "127.0.0.1", "r", "r.a.org r.A\u{fffd}.org r"),
        (b"search a.org\n", "127.0.0.1", "redis.local", "redis.local redis.local.a.org"),
        (b"search a.org\n", "127.0.0.1", "redis.", "redis"),
        (b"search svc.cluster.local\noptions edns0 ndots:5\n", "127.0.0.1", "a.b", "a.b.svc.cluster.local a.b"),
        (b"search a.org\noptions ndots:x\n", "127.0.0.1", "a.b", "a.b a.b.a.org"),
        (b"\tnameserver\t3.3.3.3\r\n", "3.3.3.3", "r", "r"),
    ] {
        let conf = confs(text, "");
        let shown = String::from_utf8_lossy(text);
        assert_eq!((written(&conf.servers).as_str(), names(&conf, host).as_str()), (servers, expected), "{shown:?}");
    }
}

#[test]
fn options_have_the_bounds_of_the_c_libraries() {
    for (text, ndots, timeout, attempts) in [
        ("", 1, 5, 2),
        ("options timeout:1 attempts:3 ndots:2", 2, 1, 3),
        ("options timeout:1\noptions attempts:3", 1, 1, 3),
        ("options timeout:0 attempts:0 ndots:0", 0, 1, 1),
        ("options timeout:31 attempts:6 ndots:16", 15, 30, 5),
        ("options timeout:99999999999999999999 attempts:4294967296 ndots:18446744073709551616", 15, 30, 5),
        ("options timeout: attempts:x ndots:-1 rotate", 1, 5, 2),
        ("options timeout:3s attempts:4,", 1, 3, 4),
        ("options timeout:3 timeout:4", 1, 4, 2),
        ("timeout:3", 1, 5, 2),
    ] {
        let conf = confs(text.as_bytes(), "");
        assert_eq!((conf.ndots, conf.timeout / 1000, conf.attempts), (ndots, timeout, attempts), "{text}");
    }
}

#[test]
fn the_domain_of_the_hostname_is_the_default_search_list() {
    for (text, hostname, expected) in [
        ("", "web1.example.org\n", "redis.example.org redis"),
        ("", "web1\n", "redis"),
        ("", "web1.", "redis"),
        ("search a.org\n", "web1.example.org", "redis.a.org redis"),
        ("search\n", "web1.example.org", "redis"),
    ] {
        assert_eq!(names(&confs(text.as_bytes(), hostname), "redis"), expected, "{text:?} {hostname:?}");
    }
}

#[test]
fn search_lists_are_bounded() {
    let text = ["search"].into_iter().map(str::to_owned).chain((0..100).map(|n| format!(" d{n}"))).collect::<String>();
    let conf = confs(text.as_bytes(), "");
    assert_eq!(conf.search.len(), MAX_SEARCH);
    assert_eq!(names(&conf, "r").split(' ').count(), MAX_SEARCH + 1);
}

#[test]
fn the_hosts_file_lists_addresses() {
    let hosts = b"127.0.0.1 localhost\n::1\tlocalhost ip6-localhost\n10.0.0.7 web.a.org  web # redis\nbad redis\n\
        redis\n\xe9 redis\n10.0.0.8 caf\xe9 bar # \xff\nfe80::1%eth0 bar\n10.0.0.8 BAR bar\n10.0.0.1\xe9 bar\n\
        10.0.0.9 last";
    for (host, addresses) in [
        ("localhost", "127.0.0.1 ::1"),
        ("web", "10.0.0.7"),
        ("WEB.a.org", "10.0.0.7"),
        ("bar", "10.0.0.8 fe80::1%7"),
        ("last", "10.0.0.9"),
        ("redis", ""),
        ("10.0.0.7", ""),
        ("", ""),
    ] {
        assert_eq!(listed(hosts, host), addresses, "{host:?}");
    }
}

#[test]
fn lines_and_words_may_have_any_length() {
    let name = "n".repeat(MAX_WORD);
    let text = format!("10.0.0.1 {} x\n{} redis\n10.0.0.2 {name} redis", "a".repeat(5_000), "b ".repeat(5_000));
    assert_eq!(listed(text.as_bytes(), "redis"), "10.0.0.2");
    assert_eq!(listed(text.as_bytes(), "x"), "10.0.0.1");
    assert_eq!(listed(text.as_bytes(), &name), "10.0.0.2");
    let many: String = (0..100).map(|n| format!("10.0.0.{n} redis\n")).collect();
    assert_eq!(listed(many.as_bytes(), "redis").split(' ').count(), MAX_ADDRESSES);
}

#[test]
fn loopback_names_need_no_file() {
    for (host, addresses) in [
        ("LocalHost", "127.0.0.1 ::1"),
        ("localhost.", "127.0.0.1 ::1"),
        ("redis.localhost", "127.0.0.1 ::1"),
        ("localhost.redis", ""),
        ("notlocalhost", ""),
        ("redis", ""),
    ] {
        let found: Vec<_> = loopback_addresses(host).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), addresses, "{host:?}");
    }
}

#[test]
fn addresses_may_name_an_interface() {
    for (word, expected) in [
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::1%7"),
        ("fe80::1%eth1", ""),
        ("fe80::1%", "fe80::1"),
        ("10.1.2.3%eth0", ""),
        ("%eth0", ""),
        ("10.1", ""),
        ("redis", ""),
    ] {
        let found: Vec<_> = parse_address(word.as_bytes(), 53, interfaces).into_iter().collect();
        assert_eq!(written(&found), expected, "{word:?}");
    }
}
