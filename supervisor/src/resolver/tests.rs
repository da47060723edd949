use std::net::UdpSocket;

use super::*;

fn on_one_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn what_needs_no_server_is_answered_without_one() {
    on_one_thread(async {
        let names = Names::new("nameserver 192.0.2.1\n", "10.1.2.3 registry.test # ours\n").unwrap();
        for (host, address) in [
            ("10.0.0.1", "10.0.0.1:5000"),
            ("[fd00::1]", "[fd00::1]:5000"),
            ("localhost", "127.0.0.1:5000"),
            ("registry.test", "10.1.2.3:5000"),
        ] {
            let found = names.lookup(host, 5000).await.unwrap();
            assert_eq!(found.first().map(ToString::to_string).as_deref(), Some(address), "{host}");
        }
    });
}

/// Answers each question for `name` with 192.0.2.7 and every other one with NXDOMAIN (RFC 1035, section 4).
fn server(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&answer(&buffer[..length], name), from).unwrap();
        }
    });
    address
}

fn answer(question: &[u8], name: &str) -> Vec<u8> {
    let encoded: Vec<u8> =
        name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let asked = question[12..end].to_ascii_lowercase();
    let ours = asked.starts_with(&encoded) && asked[encoded.len()] == 0;
    let address = ours && asked[asked.len() - 3] == 1;
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, if ours { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    answer
}

/// A resolver of this server alone.
fn asking(server: SocketAddr, search: &str) -> Names {
    let mut names = Names::new(&format!("nameserver 127.0.0.1\n{search}\n"), "").unwrap();
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    let domains = search.split(' ').skip(1).filter_map(|domain| Name::from_utf8(domain).ok()).collect();
    let config = ResolverConfig::from_parts(None, domains, vec![config]);
    names.resolver = Resolver::builder_with_config(config, OneThread::default()).build().unwrap();
    names
}

#[test]
fn a_name_server_is_asked() {
    on_one_thread(async {
        let names = asking(server("db.example.test"), "");
        let found = names.lookup("db.example.test", 80).await.unwrap();
        assert_eq!(found, [SocketAddr::from(([192, 0, 2, 7], 80))]);
        let error = names.lookup("other.example.test", 80).await.unwrap_err();
        assert_eq!(error.to_string(), "lookup other.example.test: no such host");
    });
}

#[test]
fn search_domains_complete_short_names() {
    on_one_thread(async {
        let names = asking(server("db.example.test"), "search none.test example.test");
        let found = names.lookup("db", 80).await.unwrap();
        assert_eq!(found, [SocketAddr::from(([192, 0, 2, 7], 80))]);
    });
}
