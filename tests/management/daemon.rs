//! A whole daemon, in a process of its own where it is told by its environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smartvpn::management::{Daemon, Management, Mode};
use tokio::net::UnixDatagram;
use tokio::time::{sleep, timeout};

use crate::peer::{PATIENCE, Peer, mute_server};

/// Set in the process that runs the daemon: the path of its socket.
const SOCKET: &str = "SMARTVPN_TEST_SOCKET";

fn daemon(mode: Mode, path: &Path) -> Daemon {
    let management = Management::Socket { path: path.to_owned(), group: None, activated: None };
    Daemon { mode, config: None, management }
}

async fn listening(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "it does not listen");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn shutdown_ends_it_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let run = tokio::spawn(daemon(Mode::Client, &path).run());
    listening(&path).await;
    let mut peers = [Peer::connect(&path).await, Peer::connect(&path).await];
    for peer in &mut peers {
        assert_eq!(peer.message().await["data"]["mode"], "client");
    }
    let [asking, other] = &mut peers;
    let (_listener, config) = mute_server().await;
    other.request(1, "connect", config).await;
    assert_eq!(other.message().await["data"]["state"], "connecting");
    let refused = asking.call("shutdown", json!({ "now": true })).await;
    assert_eq!(refused["error"]["code"], "invalid-argument");
    assert_eq!(asking.call("shutdown", Value::Null).await["success"], true);
    assert_eq!(other.answer().await["error"]["code"], "aborted");
    assert_eq!(timeout(PATIENCE, run).await.unwrap().unwrap(), Ok(()));
    assert_eq!(asking.answer().await, Value::Null);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn two_daemons_do_not_share_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let run = tokio::spawn(daemon(Mode::Server, &path).run());
    listening(&path).await;
    let error = daemon(Mode::Server, &path).run().await.unwrap_err();
    assert_eq!(error.code.as_str(), "address-in-use");
    let mut peer = Peer::connect(&path).await;
    assert_eq!(peer.call("shutdown", Value::Null).await["success"], true);
    timeout(PATIENCE, run).await.unwrap().unwrap().unwrap();
}

/// What the process of the tests below does.
#[tokio::test]
async fn in_a_process_of_its_own() {
    if let Some(path) = std::env::var_os(SOCKET) {
        daemon(Mode::Server, &PathBuf::from(path)).run().await.unwrap();
    }
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    fn start(socket: &Path, notify: &Path, watchdog: Duration) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "daemon::in_a_process_of_its_own"]).stdout(Stdio::null());
        command.env(SOCKET, socket).env("NOTIFY_SOCKET", notify);
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string()).env_remove("WATCHDOG_PID");
        Self(command.spawn().unwrap())
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = timeout(PATIENCE, manager.recv(&mut buffer)).await.expect("it is told").unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn the_service_manager_is_told_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, notify) = (folder.path().join("socket"), folder.path().join("notify"));
    let manager = UnixDatagram::bind(&notify).unwrap();
    let mut process = Process::start(&socket, &notify, Duration::from_millis(200));
    assert_eq!(told(&manager).await, "READY=1");
    // Ready means that controllers get in.
    let mut peer = Peer::connect(&socket).await;
    assert_eq!(peer.message().await["event"], "ready");
    for _ in 0..5 {
        assert_eq!(told(&manager).await, "WATCHDOG=1");
    }
    process.terminate();
    loop {
        match told(&manager).await.as_str() {
            "STOPPING=1" => break,
            message => assert_eq!(message, "WATCHDOG=1"),
        }
    }
    assert!(process.0.wait().unwrap().success());
}
