//! The engine as a process of its own.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use smartvpn::config::load_from_file;
use smartvpn::control::{Keep, activated_socket, close_memory, give_up_rights, raise_open_files};
use smartvpn::error::{ErrorCode, VpnError};
use smartvpn::management::{Daemon, Management, Mode, error_body, generate_keypair};
use smartvpn::report::TOLD;
use tokio::runtime::Builder;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// What is left to threads that wait for the system (a name that does not resolve) at the end.
const THREADS: Duration = Duration::from_millis(100);

/// Runs a VPN client or server, controlled over JSON lines or from a configuration file.
#[derive(Parser)]
#[command(
    name = "smartvpn_daemon",
    version,
    group = ArgGroup::new("what").required(true).multiple(true),
    after_help = "Ends in good order on SIGTERM, SIGINT and SIGHUP: clients are told, the host is put back.\n\
        Logs go to stderr; RUST_LOG sets what is logged, smartvpn=info unless given.\n\n\
        Exit codes:\n  0  ended as asked: a signal, `shutdown`, the end of stdin\n  \
        1  failed; stderr says why, and stdout too unless --management has it\n  2  wrong arguments"
)]
struct Arguments {
    /// Print a new key pair as JSON and end
    #[arg(long, group = "what", exclusive = true)]
    generate_keypair: bool,
    /// Take requests from stdin and answer on stdout, as JSON lines; end when stdin ends
    #[arg(long, group = "what", requires = "mode", conflicts_with = "management_socket")]
    management: bool,
    /// Take requests at this Unix socket, as JSON lines, from root and this user; live on when
    /// controllers leave. A socket passed by the service manager (LISTEN_FDS) is used in its place
    #[arg(long, group = "what", value_name = "PATH", requires = "mode")]
    management_socket: Option<PathBuf>,
    /// Admit the members of this group to the socket too
    #[arg(long, value_name = "NAME", requires = "management_socket")]
    management_group: Option<String>,
    /// Run the VPN of this JSON file; end when it fails for good
    #[arg(long, group = "what", value_name = "FILE", requires = "mode")]
    config: Option<PathBuf>,
    /// What to run: client or server
    #[arg(long, value_name = "client|server")]
    mode: Option<Mode>,
}

fn main() -> ExitCode {
    // Before there are keys in it.
    let closed = close_memory();
    let arguments = Arguments::parse();
    // Without a mode there is nothing to run: the parser requires it with all else.
    let Some(mode) = arguments.mode else { return print_line(&generate_keypair().to_string()) };
    // With the rights that this process was started with: the file may be another user's.
    let config = arguments.config.as_deref().map(load_from_file).transpose();
    // Before the log's thread: each thread has rights of its own, and the environment is changed.
    let keep = Keep { low_ports: mode == Mode::Server, group: arguments.management_group.as_deref() };
    let confined = closed.and(give_up_rights(keep));
    let activated = arguments.management_socket.as_ref().and_then(|_| activated_socket());
    let _log = start_log(arguments.management);
    if let Err(error) = confined {
        tracing::warn!(%error, "this process could not be confined as it should be");
    }
    raise_open_files();
    let speaks_on_stdout = arguments.management;
    let management = match arguments.management_socket {
        Some(path) => Management::Socket { path, group: arguments.management_group, activated },
        None if arguments.management => Management::Stdio,
        None => Management::None,
    };
    let outcome = config.and_then(|config| run(Daemon { mode, config, management }));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(code = %error.code, "{error}");
            if !speaks_on_stdout {
                print_line(&serde_json::json!({ "error": error_body(&error) }).to_string());
            }
            ExitCode::FAILURE
        }
    }
}

fn run(daemon: Daemon) -> Result<(), VpnError> {
    // For control only: packets have threads of their own.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().thread_name("smartvpn").build();
    let runtime = runtime.map_err(|error| {
        let message = format!("the runtime cannot start: {error}");
        VpnError::new(ErrorCode::Internal, message).caused_by(error)
    })?;
    let outcome = runtime.block_on(daemon.run());
    runtime.shutdown_timeout(THREADS);
    outcome
}

/// Lines of the log that wait for whoever reads stderr. More are dropped: a reader that has stopped
/// must not stop the VPN, and what happened a thousand lines ago is of less use than the tunnel.
const LOG_LINES: usize = 1024;

/// Logs to stderr, by a thread of its own. With `told`, what controllers are told as an event is left
/// out: the parent reads both. What waits is written when the guard is dropped.
fn start_log(told: bool) -> WorkerGuard {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "smartvpn=info".into());
    if told && let Ok(directive) = format!("{TOLD}=off").parse() {
        filter = filter.add_directive(directive);
    }
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .lossy(true)
        .thread_name("smartvpn-log")
        .finish(std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).init();
    guard
}

fn print_line(line: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
