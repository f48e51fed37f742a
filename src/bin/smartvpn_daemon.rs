//! The engine as a process of its own.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgGroup, Parser};
use smartvpn::config::load_from_file;
use smartvpn::error::VpnError;
use smartvpn::management::{Endpoint, Mode, error_body, generate_keypair};
use smartvpn::report::{Event, EventSink, Events};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a VPN client or server from a configuration file.
#[derive(Parser)]
#[command(name = "smartvpn_daemon", version, group = ArgGroup::new("what").required(true))]
struct Arguments {
    /// Print a new key pair as JSON and end
    #[arg(long, group = "what")]
    generate_keypair: bool,
    /// Run the VPN of this JSON file
    #[arg(long, group = "what", value_name = "FILE", requires = "mode")]
    config: Option<PathBuf>,
    /// What the file configures: client or server
    #[arg(long, value_name = "client|server")]
    mode: Option<Mode>,
}

/// Events of a daemon without controllers: their text goes to the log where they are made.
struct NoControllers;

impl EventSink for NoControllers {
    fn emit(&self, event: Event) {
        tracing::debug!(name = event.name(), data = %event.data(), "event");
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.generate_keypair {
        return print_line(&generate_keypair().to_string());
    }
    // Both are there: the parser requires one of the group, and the mode with the file.
    let (Some(path), Some(mode)) = (arguments.config, arguments.mode) else { return ExitCode::FAILURE };
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "smartvpn=info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("smartvpn").build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the runtime cannot start");
                return ExitCode::FAILURE;
            }
        };
    match runtime.block_on(run(path, mode)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(code = %error.code, "{error}");
            print_line(&serde_json::json!({ "error": error_body(&error) }).to_string());
            ExitCode::FAILURE
        }
    }
}

/// Runs the VPN until SIGTERM, SIGINT or SIGHUP.
async fn run(path: PathBuf, mode: Mode) -> Result<(), VpnError> {
    let config = load_from_file(&path)?;
    let base = std::env::current_dir().unwrap_or_default();
    let endpoint = Endpoint::new(mode, Events::new(Arc::new(NoControllers)), base);
    let stopped = stop_signal()?;
    let outcome = tokio::select! {
        outcome = endpoint.run_config(&config) => outcome,
        () = stopped => {
            endpoint.shutdown().await;
            return Ok(());
        }
    };
    if outcome.is_ok() {
        stop_signal()?.await;
    }
    endpoint.shutdown().await;
    outcome
}

/// Resolves at the first signal that asks the daemon to end.
fn stop_signal() -> Result<impl Future<Output = ()>, VpnError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            VpnError::new(smartvpn::error::ErrorCode::Internal, "signals cannot be received").caused_by(error)
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

fn print_line(line: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
