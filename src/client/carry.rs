//! The tunnel while it is up: one connection, and those that take its place meanwhile.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::GOODBYE;
use super::attempt::Established;
use super::carried::{Carried, News};
use super::failure::{Failure, is_cut};
use super::inbox::{Inbox, Interrupt, answer};
use super::run::{Renewal, Run, alarm};
use crate::codec::hello::Accepted;
use crate::engine::{Alarm, End, Task, clock};
use crate::error::{ErrorCode, VpnError};
use crate::report::{Assigned, ConnectionState, LogLevel, Status};

/// How long after a second connection could not be had for new keys the next try begins: the keys have a tenth of
/// their service left, which is minutes.
const RENEWAL_REST: Duration = Duration::from_secs(10);

/// How long a connection waits for the one that it takes the place of: a round trip, unless the old way is dead.
const HANDOVER: Duration = Duration::from_millis(250);

/// What ended the last connection.
enum Ended {
    Interrupt(Interrupt),
    Connection(End),
    /// The way that it took is gone: it can neither send nor hear anything.
    Gone(Failure),
    Failed(Failure),
}

/// The connection that is up, and the one that is to take its place.
struct Present {
    carried: Carried,
    /// When it must be confirmed.
    deadline: Instant,
    renewal: Option<Renewal>,
    /// When the keys call for one.
    renew_at: Option<Instant>,
    /// The one before, as long as it delivers what is under way.
    retired: Option<Task<()>>,
    /// Until then the present connection waits for the one before, so that packets keep their order.
    handover: Option<Instant>,
}

impl Run {
    /// Carries packets until there is no connection any more.
    pub(super) async fn carry(
        &mut self,
        established: Established,
        deadline: Instant,
        inbox: &mut Inbox,
    ) -> Result<Interrupt, Failure> {
        let carried = self.carried(established)?;
        let mut present =
            Present { carried, deadline, renewal: None, renew_at: None, retired: None, handover: None };
        let ended = loop {
            let Some(tunnel) = &mut self.tunnel else { return Err(Failure::last(no_tunnel())) };
            let Present { carried, deadline, renewal, renew_at, retired, handover } = &mut present;
            let is_first = handover.is_none();
            let is_unconfirmed = !carried.is_confirmed;
            let outcome = tokio::select! {
                biased;
                interrupt = inbox.interrupt() => Err(Ended::Interrupt(interrupt)),
                news = carried.run(), if is_first => self.take_news(news, &mut present),
                () = handed_over(retired, *handover), if !is_first => {
                    *handover = None;
                    Ok(())
                }
                established = attempted(renewal) => self.switch(established, &mut present).await,
                () = at(*renew_at), if renewal.is_none() => {
                    *renew_at = Some(Instant::now() + RENEWAL_REST);
                    *renewal = self.renewal();
                    Ok(())
                }
                alarm = alarm(&mut self.vigil) => self.look(alarm, &mut present).await,
                reason = tunnel.failed() => Err(Ended::Failed(Failure::last(interface_failed(&reason)))),
                () = sleep_until(*deadline), if is_unconfirmed => {
                    Err(Ended::Failed(Failure::timeout("confirmation")))
                }
            };
            if let Err(ended) = outcome {
                break ended;
            }
        };
        if let Some(tunnel) = &self.tunnel {
            tunnel.set_offline();
        }
        let Present { carried, .. } = present;
        Box::pin(self.leave(carried, ended, inbox)).await
    }

    fn take_news(&mut self, news: News, present: &mut Present) -> Result<(), Ended> {
        match news {
            News::Ended(end) => return Err(Ended::Connection(end)),
            News::Confirmed => self.confirmed(&present.carried),
            News::KeysAging => present.renew_at = Some(Instant::now()),
        }
        Ok(())
    }

    /// Goes on by another connection, if one has come about.
    async fn switch(
        &mut self,
        established: Result<Established, Failure>,
        present: &mut Present,
    ) -> Result<(), Ended> {
        present.renewal = None;
        let established = match established {
            Ok(established) => established,
            Err(failure) => {
                self.shared.events.log(LogLevel::Debug, "reconnect", failure.error.message);
                present.renew_at = present.renew_at.map(|_| Instant::now() + RENEWAL_REST);
                return Ok(());
            }
        };
        let set_up = self.set_up(&established).await.map_err(Failure::last);
        let next = set_up.and_then(|()| self.carried(established)).map_err(Ended::Failed)?;
        self.open_gate(&next.hello);
        let old = std::mem::replace(&mut present.carried, next);
        present.retired = Some(Task::spawn("retired connection", Box::pin(old.retire())));
        present.handover = Some(Instant::now() + HANDOVER);
        (present.deadline, present.renew_at) = (Instant::now() + self.config.connect_timeout, None);
        Ok(())
    }

    /// Looks at the connection, as the host's network has changed or the host has slept.
    async fn look(&mut self, alarm: Alarm, present: &mut Present) -> Result<(), Ended> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(()) };
        tunnel.repin(&self.known).await;
        let Present { carried, renewal, .. } = present;
        let local = carried.local.ip();
        if !tunnel.has_address(local) {
            return Err(Ended::Gone(Failure::moved()));
        }
        carried.probe();
        let source = tunnel.source_to(carried.remote.ip());
        let is_elsewhere = source.is_some_and(|source| source != local);
        if alarm == Alarm::Network && is_elsewhere && renewal.is_none() {
            *renewal = self.renewal();
        }
        Ok(())
    }

    fn carried(&self, established: Established) -> Result<Carried, Failure> {
        let tunnel = self.tunnel.as_ref().ok_or_else(|| Failure::last(no_tunnel()))?;
        Ok(Carried::new(established, tunnel, &self.traffic, &self.shared))
    }

    fn open_gate(&self, hello: &Accepted) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.set_online(hello);
        }
    }

    /// The server has confirmed the session: packets flow.
    fn confirmed(&mut self, carried: &Carried) {
        self.comeback.connected(clock::now());
        self.open_gate(&carried.hello);
        if self.shared.status().state == ConnectionState::Connected {
            self.shared.set_switched(carried.server.clone(), carried.mtu.clone());
        } else {
            let dns = self.tunnel.as_ref().map(|tunnel| tunnel.dns());
            let status = Status { dns, ..status(&carried.hello, &carried.server) };
            self.shared.set_connected(status, carried.mtu.clone());
        }
        if let Some(reply) = self.reply.take() {
            answer(reply, Ok(assigned(&carried.hello)));
        }
    }

    /// Says the goodbyes that an end permits.
    async fn leave(
        &mut self,
        carried: Carried,
        ended: Ended,
        inbox: &mut Inbox,
    ) -> Result<Interrupt, Failure> {
        match ended {
            Ended::Connection(end) => {
                if carried.is_confirmed && is_cut(&end) {
                    self.learn(carried.silence_before_cut());
                }
                Box::pin(carried.close(&end)).await;
                Err(Failure::from(end))
            }
            Ended::Gone(failure) => {
                carried.abort();
                self.comeback.network_changed();
                Err(failure)
            }
            Ended::Failed(failure) => {
                drop(timeout(GOODBYE, Box::pin(carried.say_goodbye())).await);
                Err(failure)
            }
            Ended::Interrupt(interrupt) => {
                // The host is put back meanwhile: a server that is silent does not delay it.
                let tunnel = self.tunnel.take();
                let goodbye = inbox.goodbye(Box::pin(carried.say_goodbye()));
                tokio::join!(goodbye, async {
                    if let Some(tunnel) = tunnel {
                        tunnel.close().await;
                    }
                });
                Ok(interrupt)
            }
        }
    }

    /// Takes in how long a connection had been silent when it was cut.
    fn learn(&mut self, silence: Option<Duration>) {
        if let Some(silence) = silence
            && let Some(interval) = self.comeback.learn(clock::now(), silence)
        {
            let message = format!(
                "the connection was cut after {:.1} s of silence; from now on keepalives go out every {:.1} s at least",
                silence.as_secs_f64(),
                interval.as_secs_f64()
            );
            self.shared.events.log(LogLevel::Info, "keepalive", message);
        }
    }
}

/// Waits for the end of the connection before, but no longer than `until`.
async fn handed_over(retired: &mut Option<Task<()>>, until: Option<Instant>) {
    if let (Some(retired), Some(until)) = (retired, until) {
        let _late = timeout_at(until, retired.join()).await;
    }
}

async fn attempted(renewal: &mut Option<Renewal>) -> Result<Established, Failure> {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn status(hello: &Accepted, server: &str) -> Status {
    Status {
        assigned_ip: Some(hello.assigned_ip),
        assigned_ip6: hello.v6.map(|v6| v6.assigned_ip),
        server_addr: Some(server.to_owned()),
        ..Status::new(ConnectionState::Connected)
    }
}

fn assigned(hello: &Accepted) -> Assigned {
    Assigned { assigned_ip: hello.assigned_ip, assigned_ip6: hello.v6.map(|v6| v6.assigned_ip) }
}

fn no_tunnel() -> VpnError {
    VpnError::new(ErrorCode::Internal, "a connection began without its interface; please report this")
}

fn interface_failed(reason: &str) -> VpnError {
    let message =
        format!("the tunnel's interface failed ({reason}); was it deleted by another program? connect again");
    VpnError::new(ErrorCode::TunUnavailable, message)
}
