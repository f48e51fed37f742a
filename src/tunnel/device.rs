//! The device itself, over `tun-rs`.

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::error::TunError;
use super::name;
use crate::packet::{OFFLOAD_LEN, Offload};

/// Packets that the kernel holds for us; what comes beyond is lost without a name. Some 10 ms at 200,000
/// packets a second, for the time in which the scheduler lets others run; what is there is read at once, so
/// that it is no queue to wait in.
#[cfg(target_os = "linux")]
const TX_QUEUE_LEN: u32 = 2048;

/// How a TUN device is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// The interface's name; the first free one of `smartvpn0`, `smartvpn1`, … if absent.
    pub name: Option<String>,
    /// The interface's MTU, in bytes of IP packet.
    pub mtu: u16,
    /// Whether there may be [more queues](Tun::another_queue) than one.
    pub multi_queue: bool,
}

/// A TUN device: one whole IP packet per read and per write, with what is still to be done to it where the
/// kernel has offloads.
///
/// The interface goes away with this value. It is made without address and is down at first;
/// [`Netlink`](crate::network::Netlink) sets both.
pub struct Tun {
    device: AsyncDevice,
    name: String,
    index: u32,
    offloads: Offloads,
}

/// What the kernel takes and gives as one packet (`TUNSETOFFLOAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Each packet by itself, with complete checksums.
    None,
    /// Partial checksums and super-packets over TCP.
    Tcp,
    /// The same, and super-packets over UDP (Linux 6.2 and later).
    TcpAndUdp,
}

/// The longest packet with its offload header, in bytes: what a read needs room for.
pub const READ_ROOM: usize = OFFLOAD_LEN + u16::MAX as usize;

/// A packet that was read: where it lies in the room that it was read into, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The packet's bytes.
    pub range: Range<usize>,
    /// What is still to be done to it.
    pub offload: Offload,
}

impl Tun {
    /// Makes a new interface. Must be called within a tokio runtime.
    ///
    /// A device that exists is never taken over, not even a persistent one that nobody holds.
    pub fn create(config: &TunConfig) -> Result<Self, TunError> {
        match &config.name {
            Some(name) if !name::is_valid_name(name) => Err(TunError::InvalidName { name: name.clone() }),
            Some(name) => Self::create_named(name, config),
            None => Self::create_first_free(config),
        }
    }

    /// One more queue of an interface that may have several: packets of a flow are given to the queue that
    /// its last packet was written to. Must be called within a tokio runtime, which may be another.
    pub fn another_queue(&self) -> io::Result<Self> {
        let Self { device, name, index, offloads } = self;
        Ok(Self { device: device.try_clone()?, name: name.clone(), index: *index, offloads: *offloads })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the user is to know of this device, if anything.
    pub fn remark(&self) -> Option<&'static str> {
        let refused = "the kernel refuses offloads (TUNSETOFFLOAD): packets pass one by one, which is slower";
        (self.offloads == Offloads::None).then_some(refused)
    }

    /// What the kernel takes and gives as one packet.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one packet into `room`, which is best [`READ_ROOM`] bytes long: of a longer packet only the
    /// beginning is there then. `WouldBlock` if there is none.
    ///
    /// The error is final once the interface has been deleted from outside.
    pub fn try_read(&self, room: &mut [u8]) -> io::Result<Received> {
        let length = self.device.try_recv(room)?;
        if self.offloads == Offloads::None {
            return Ok(Received { range: 0..length, offload: Offload::NONE });
        }
        let header = room.first_chunk::<OFFLOAD_LEN>().ok_or(io::ErrorKind::InvalidInput)?;
        let offload = Offload::from_kernel(*header);
        let range = OFFLOAD_LEN..length.max(OFFLOAD_LEN);
        let offload = offload.normalised(room.get(range.clone()).unwrap_or_default());
        Ok(Received { range, offload })
    }

    /// Waits until [`try_read`](Self::try_read) is worth a call. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.device.readable().await
    }

    /// Writes one packet. Never waits, takes no lock, and may be called from many tasks at once.
    ///
    /// What `offload` asks for must be within [`offloads`](Self::offloads). The kernel refuses what is no
    /// IP packet, or no super-packet that it knows (`InvalidInput`), and everything while the interface is
    /// down (`EIO`).
    pub fn write(&self, packet: &[u8], offload: Offload) -> io::Result<()> {
        // Not by way of the runtime's readiness: a TUN is always writable, and a readiness that the
        // runtime has not seen yet would lose the first packets.
        let device: &tun_rs::DeviceImpl = &self.device;
        if self.offloads == Offloads::None {
            let written = rustix::io::write(device.as_fd(), packet)?;
            return whole(written == packet.len());
        }
        let header = offload.to_kernel();
        let written = rustix::io::writev(device.as_fd(), &[IoSlice::new(&header), IoSlice::new(packet)])?;
        whole(written == OFFLOAD_LEN + packet.len())
    }

    /// True once the interface has been deleted. [`readable`](Self::readable) returns at once then,
    /// with nothing to read.
    pub fn is_gone(&self) -> bool {
        socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .is_ok_and(|socket| netdevice::index_to_name(&socket, self.index) == Err(Errno::NODEV))
    }

    fn create_named(name: &str, config: &TunConfig) -> Result<Self, TunError> {
        look_for_driver()?;
        if exists(name) {
            return Err(TunError::NameInUse { name: name.to_owned() });
        }
        let (device, offloads) = match build(name, config, true) {
            Ok(device) if device.udp_gso() => (device, Offloads::TcpAndUdp),
            Ok(device) => (device, Offloads::Tcp),
            Err(error) => match refusal(name, error) {
                TunError::Failed(error) => {
                    let device = build(name, config, false).map_err(|error| refusal(name, error))?;
                    tracing::debug!(%error, "the kernel refuses offloads");
                    (device, Offloads::None)
                }
                refused => return Err(refused),
            },
        };
        let index = device.if_index().map_err(TunError::Failed)?;
        Ok(Self { device, name: name.to_owned(), index, offloads })
    }

    fn create_first_free(config: &TunConfig) -> Result<Self, TunError> {
        let mut taken = String::new();
        for name in name::candidates() {
            match Self::create_named(&name, config) {
                // Taken, or taken by another process between the look and the call.
                Err(TunError::NameInUse { name }) => taken = name,
                made => return made,
            }
        }
        Err(TunError::NameInUse { name: taken })
    }
}

fn build(name: &str, config: &TunConfig, offload: bool) -> io::Result<AsyncDevice> {
    DeviceBuilder::new()
        .name(name)
        .mtu(config.mtu)
        .inherit_enable_state()
        .with(|builder| {
            builder.packet_information(false).offload(offload).multi_queue(config.multi_queue);
            #[cfg(target_os = "linux")]
            builder.tx_queue_len(TX_QUEUE_LEN);
        })
        .build_async()
}

fn whole(is_whole: bool) -> io::Result<()> {
    if is_whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Opens the driver once, to tell its absence from a missing capability, and because `tun-rs` would
/// make a missing device node, which nobody would remove.
fn look_for_driver() -> Result<(), TunError> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    opened.map(drop).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => TunError::PermissionDenied(error),
        // Among them EPERM, which a container's device list gives.
        _ => TunError::Unavailable(error),
    })
}

/// Whether the namespace has an interface of this name. The kernel would hand out a persistent TUN
/// that lies idle, addresses and all; that one belongs to somebody else.
fn exists(name: &str) -> bool {
    // Not /sys/class/net, which shows the namespace it was mounted in.
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| netdevice::name_to_index(&socket, name))
        .is_ok()
}

/// What a failed `TUNSETIFF` means.
fn refusal(name: &str, error: io::Error) -> TunError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // EBUSY: somebody else holds the TUN of this name. EINVAL: the name is of another kind.
        Some(Errno::BUSY | Errno::EXIST) => TunError::NameInUse { name: name.to_owned() },
        Some(Errno::INVAL) if exists(name) => TunError::NameInUse { name: name.to_owned() },
        Some(Errno::PERM) => TunError::PermissionDenied(error),
        _ => TunError::Failed(error),
    }
}
