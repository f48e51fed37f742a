//! Tests in a network of their own: a test runs itself anew in fresh network and mount namespaces,
//! so that neither the machine's network nor other tests are touched.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it skips"
)]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Child, Command, Output, Stdio};

/// Set in the processes that run inside.
const INSIDE: &str = "SMARTVPN_TEST_INSIDE";
/// Set in helper processes, to what they are to do.
const ROLE: &str = "SMARTVPN_TEST_ROLE";

/// Runs `body` in namespaces of its own; `test` is the full name of the calling test. Prints
/// `skipped: …` and does nothing where that is not allowed. Lines with `measured: …` that `body` prints are
/// passed on.
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            return println!("skipped: /dev/net/tun: {error}");
        }
        run("ip", "link set lo up");
        return body();
    }
    let Some(entry) = entry() else {
        return println!("skipped: no network namespace can be made here");
    };
    let output = unshare(&entry, test).env(INSIDE, "1").output().expect("unshare runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{test} failed:\n{stdout}\n{stderr}");
    for line in stdout.lines() {
        if let Some(at) = ["skipped: ", "measured: "].into_iter().find_map(|word| line.find(word)) {
            println!("{}", &line[at..]);
        }
    }
}

/// The role that this process was started for.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A process that runs the test `test` of this binary in a role; killed when dropped.
pub(crate) struct Helper(Child);

impl Helper {
    /// Starts one in this network namespace.
    pub(crate) fn here(test: &str, role: &str) -> Self {
        Self::spawn(itself(test), role)
    }

    /// Starts one in a network namespace of its own.
    pub(crate) fn elsewhere(test: &str, role: &str) -> Self {
        Self::spawn(unshare(&["--net".into()], test), role)
    }

    /// Starts one in this network namespace, without the capability to change it.
    pub(crate) fn weak(test: &str, role: &str) -> Self {
        let inner = itself(test);
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-net_admin").arg(inner.get_program()).args(inner.get_args());
        Self::spawn(command, role)
    }

    /// Its standard output.
    pub(crate) fn stdout(&mut self) -> std::process::ChildStdout {
        self.0.stdout.take().expect("taken once")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it at once by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it was killed");
    }

    fn spawn(mut command: Command, role: &str) -> Self {
        Self(command.env(ROLE, role).stdout(Stdio::piped()).spawn().expect("the helper starts"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program that must succeed, with the words of `arguments`; returns what it printed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = attempt(program, arguments);
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Runs a program that may fail.
#[track_caller]
pub(crate) fn attempt(program: &str, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Whether the machine has a program; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|directory| std::path::Path::new(directory).join(program).exists());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs `ip` in the namespace of a helper.
#[track_caller]
pub(crate) fn ip_in(helper: &Helper, arguments: &str) -> String {
    run("nsenter", &format!("--net=/proc/{}/ns/net ip {arguments}", helper.id()))
}

/// How many ICMP messages «destination unreachable» this namespace's hosts have accepted, over IPv4 and IPv6.
pub(crate) fn unreachables_heard() -> [u64; 2] {
    let [v4, v6] = ["/proc/net/snmp", "/proc/net/snmp6"]
        .map(|file| std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}")));
    // A line of names and one of values.
    let mut rows = v4.lines().filter(|line| line.starts_with("Icmp:")).map(str::split_whitespace);
    let (names, values) = (rows.next().into_iter().flatten(), rows.next().into_iter().flatten());
    let v4 = names.zip(values).find(|(name, _)| *name == "InDestUnreachs").map(|(_, value)| value);
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Icmp6InDestUnreachs"));
    [v4, v6].map(|value| value.map_or(0, |value| value.trim().parse().expect("a number")))
}

/// An IPv4 or IPv6 packet with a UDP datagram.
pub(crate) fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("short");
    let mut datagram = Vec::new();
    for field in [source.1, destination.1, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(data);
    match (source.0, destination.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0x45, 0];
            packet.extend((20 + length).to_be_bytes());
            packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let checksum = checksum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.extend(datagram);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, 17, 64, datagram, 6),
        _ => panic!("one family"),
    }
}

/// An IPv6 packet whose payload has its checksum at `checksum_at`.
pub(crate) fn ipv6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    protocol: u8,
    hop_limit: u8,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    let pseudo = [&from.octets()[..], &to.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, protocol]];
    let checksum = checksum(&[&pseudo.concat()[..], &payload].concat());
    payload[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, hop_limit]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// The data of a UDP packet of either family.
pub(crate) fn udp_data(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&17) => packet.get(28..),
        6 if packet.get(6) == Some(&17) => packet.get(48..),
        _ => None,
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}

/// The arguments of `unshare` that work here.
fn entry() -> Option<Vec<OsString>> {
    let plain = ["--net", "--mount"];
    let as_user = ["--user", "--map-root-user", "--net", "--mount"];
    [&plain[..], &as_user[..]].into_iter().find_map(|arguments| {
        let works = Command::new("unshare").args(arguments).arg("true").output();
        works.is_ok_and(|output| output.status.success()).then(|| arguments.iter().map(Into::into).collect())
    })
}

fn unshare(entry: &[OsString], test: &str) -> Command {
    let inner = itself(test);
    let mut command = Command::new("unshare");
    command.args(entry).arg(inner.get_program()).args(inner.get_args());
    command
}

fn itself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// Runs a future to its end on threads of its own, which share this thread's namespaces.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(future)
}
