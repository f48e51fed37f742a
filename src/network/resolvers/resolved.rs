//! systemd-resolved, over D-Bus.

use std::fs;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zbus::Connection;
use zbus::connection::Builder;

use super::super::netlink::Netlink;

const SERVICE: &str = "org.freedesktop.resolve1";
const OBJECT: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
const BUS: &str = "org.freedesktop.DBus";

/// How long setting may take; it takes milliseconds, or a second if the service starts for it.
const LIMIT: Duration = Duration::from_secs(10);
/// How long reverting may take: less than the 2 s that a synchronous undo has.
const REVERT_LIMIT: Duration = Duration::from_millis(1000);
/// resolved hears of a new interface by itself, a moment after we made it.
const LINK_KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// An interface with resolvers of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Link {
    pub(super) name: String,
    pub(super) ifindex: u32,
}

/// Why resolved did not take the resolvers.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not there, or looks after another network.
    Absent(String),
    /// It is there and says no.
    Failed(io::Error),
}

impl Link {
    /// Sets the interface's resolvers, and sends every lookup to them.
    pub(super) fn set(&self, servers: &[IpAddr]) -> Result<(), Refusal> {
        let index = self.index().map_err(Refusal::Failed)?;
        let servers: Vec<_> = servers.iter().map(|server| family_and_bytes(*server)).collect();
        let conversation = async move {
            let connection = connect().await.map_err(absent)?;
            if !is_of_this_network(&connection).await.map_err(absent)? {
                return Err(Refusal::Absent("it looks after another network namespace".to_owned()));
            }
            let set = set(&connection, index, &servers).await;
            if set.is_err() {
                // Half of the settings would be worse than none. What is told is the first failure.
                let _ = call(&connection, "RevertLink", &(index,)).await;
            }
            set.map_err(
                |error| if is_absent(&error) { absent(error) } else { Refusal::Failed(failed(error)) },
            )
        };
        converse(LIMIT, conversation).unwrap_or_else(|error| Err(Refusal::Failed(error)))
    }

    /// Takes everything back that was set for the interface, if that is still there; else it went
    /// with it.
    pub(super) fn revert(&self) -> io::Result<()> {
        let netlink = Netlink::open().map_err(io::Error::other)?;
        // The number may be another interface's by now.
        if !netlink.link(self.ifindex).is_ok_and(|link| link.name == self.name) {
            return Ok(());
        }
        let index = self.index()?;
        let conversation = async move {
            let connection = connect().await?;
            call(&connection, "RevertLink", &(index,)).await
        };
        match converse(REVERT_LIMIT, conversation)? {
            Err(error) if !is_absent(&error) && !is_unknown_link(&error) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    fn index(&self) -> io::Result<i32> {
        i32::try_from(self.ifindex).map_err(io::Error::other)
    }
}

async fn set(connection: &Connection, index: i32, servers: &[(i32, Vec<u8>)]) -> zbus::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match call(connection, "SetLinkDNS", &(index, servers)).await {
            Err(error) if is_unknown_link(&error) && waited < LINK_KNOWN_WITHIN => {
                tokio::time::sleep(POLL).await;
                waited += POLL;
            }
            other => break other?,
        }
    }
    // The root domain, for routing only: lookups that no other interface claims go here.
    call(connection, "SetLinkDomains", &(index, [(".", true)].as_slice())).await?;
    match call(connection, "SetLinkDefaultRoute", &(index, true)).await {
        // Before systemd 240 the domain alone decides.
        Err(error) if is_unknown_method(&error) => Ok(()),
        other => other,
    }
}

/// Whether the service's process is in our network namespace: interfaces have other numbers in
/// another one. True if that cannot be told.
async fn is_of_this_network(connection: &Connection) -> zbus::Result<bool> {
    // Asked of the service itself first, which starts it where systemd does that on demand.
    connection.call_method(Some(SERVICE), OBJECT, Some("org.freedesktop.DBus.Peer"), "Ping", &()).await?;
    let asked = connection
        .call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "GetConnectionUnixProcessID", &(SERVICE,))
        .await;
    let Ok(process) = asked.and_then(|reply| reply.body().deserialize::<u32>()) else { return Ok(true) };
    let (Ok(theirs), Ok(ours)) =
        (fs::metadata(format!("/proc/{process}/ns/net")), fs::metadata("/proc/thread-self/ns/net"))
    else {
        return Ok(true);
    };
    Ok((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}

async fn connect() -> zbus::Result<Connection> {
    Builder::system().build().await
}

async fn call<B>(connection: &Connection, method: &str, body: &B) -> zbus::Result<()>
where
    B: Serialize + zbus::zvariant::DynamicType,
{
    connection.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body).await.map(drop)
}

/// Runs a conversation on a thread of its own: an undo may be on a thread of a runtime, where nothing
/// may block, or on one without any.
fn converse<T: Send>(limit: Duration, conversation: impl Future<Output = T> + Send) -> io::Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let spoken = runtime.block_on(async { tokio::time::timeout(limit, conversation).await });
        runtime.shutdown_background();
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
        spoken.map_err(late)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("resolved".to_owned()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the conversation panicked")))
    })
}

/// The address as resolved takes it: its family's number, and its bytes.
fn family_and_bytes(address: IpAddr) -> (i32, Vec<u8>) {
    use rustix::net::AddressFamily;
    match address {
        IpAddr::V4(v4) => (AddressFamily::INET.as_raw().into(), v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6.as_raw().into(), v6.octets().to_vec()),
    }
}

/// Whether the interface is one that resolved does not know, or does not know yet.
fn is_unknown_link(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.resolve1.NoSuchLink")
}

/// Whether nobody answers to the service's name.
fn is_absent(error: &zbus::Error) -> bool {
    use zbus::fdo::Error::{NameHasNoOwner, ServiceUnknown};
    matches!(error, zbus::Error::FDO(error) if matches!(**error, ServiceUnknown(_) | NameHasNoOwner(_)))
}

/// Whether the service is too old to know the method.
fn is_unknown_method(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(error) if matches!(**error, zbus::fdo::Error::UnknownMethod(_)))
}

fn absent(error: zbus::Error) -> Refusal {
    Refusal::Absent(error.to_string())
}

fn failed(error: zbus::Error) -> io::Error {
    io::Error::other(error.to_string())
}
