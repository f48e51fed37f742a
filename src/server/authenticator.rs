//! Asking the program whether a client may come in (`authenticate`, API §9).
//!
//! Whoever asks has proved nothing but, perhaps, a key: questions are few at a time and for each source, take a bounded
//! time, and end when their connection does.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::codec::hello::RejectCode;
use crate::engine::clock;
use crate::report::Events;

/// Questions that wait for an answer at a time (API §9).
const ASKED: usize = 64;

/// Those of one source.
const ASKED_PER_SOURCE: usize = 4;

/// Warnings of answers that fail come at most this often; clients can make as many as they like.
const WARNING_PAUSE: Duration = Duration::from_secs(1);

/// What a program is asked: who wants to come in.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The key that the client has proved to hold, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The token that it brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Shown>,
    /// Its label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its connection comes from.
    pub remote_addr: String,
}

/// A secret that the program is shown, and no log.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Shown(pub String);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The program's answer: what it says of a client that it lets in, none for one that it does not, or what went wrong.
pub type Answer = Result<Option<Value>, String>;

/// Asks the program. Dropping the future takes the question back.
pub trait Authenticator: Send + Sync {
    /// Whether this client may come in.
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
}

/// The questions of one server.
pub(super) struct Questions {
    authenticator: Option<Arc<dyn Authenticator>>,
    limit: Duration,
    events: Events,
    asked: Mutex<HashMap<IpAddr, usize>>,
    warned: Mutex<Option<Instant>>,
}

/// Counts a question for as long as it waits.
struct Place<'q> {
    questions: &'q Questions,
    source: IpAddr,
}

impl Questions {
    pub(super) fn new(
        authenticator: Option<Arc<dyn Authenticator>>,
        limit: Duration,
        events: Events,
    ) -> Self {
        Self { authenticator, limit, events, asked: Mutex::default(), warned: Mutex::default() }
    }

    /// What the program says; a no, and a warning, if it says nothing of use in time.
    pub(super) async fn ask(&self, source: SocketAddr, question: Question) -> Result<Value, RejectCode> {
        let Some(authenticator) = &self.authenticator else { return Err(RejectCode::Unauthorized) };
        let _place = self.take_place(source.ip()).ok_or(RejectCode::ServerFull)?;
        match timeout(self.limit, authenticator.ask(question)).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(RejectCode::Unauthorized),
            Ok(Err(failure)) => {
                self.warn(&format!("authenticate failed: {failure}; the client was not let in"));
                Err(RejectCode::Unauthorized)
            }
            Err(_) => {
                let millis = self.limit.as_millis();
                self.warn(&format!(
                    "authenticate did not answer within {millis} ms; the client was not let in"
                ));
                Err(RejectCode::ServerFull)
            }
        }
    }

    /// Tells the operator what is wrong with the program's answers, not too often.
    pub(super) fn warn(&self, message: &str) {
        let now = clock::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| now.saturating_duration_since(at) >= WARNING_PAUSE) {
            *warned = Some(now);
            self.events.warn("authenticate-failed", message);
        }
    }

    fn take_place(&self, source: IpAddr) -> Option<Place<'_>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = asked.values().sum();
        let here = asked.get(&source).copied().unwrap_or(0);
        if all >= ASKED || here >= ASKED_PER_SOURCE {
            return None;
        }
        asked.insert(source, here + 1);
        Some(Place { questions: self, source })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut asked = self.questions.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = asked.get_mut(&self.source) {
            *here -= 1;
            if *here == 0 {
                asked.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::report::{Event, EventSink};

    /// Answers by the token: says yes, no, fails, or never answers.
    #[derive(Default)]
    struct Program(Arc<AtomicUsize>);

    /// Counts a question until it is answered or given up.
    struct Waiting(Arc<AtomicUsize>);

    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Authenticator for Program {
        fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let waiting = Waiting(Arc::clone(&self.0));
            Box::pin(async move {
                let _waiting = waiting;
                match question.token.map(|token| token.0).as_deref() {
                    Some("yes") => Ok(Some(json!({ "clientId": "a" }))),
                    Some("fails") => Err("no database".to_owned()),
                    Some("waits") => std::future::pending().await,
                    _ => Ok(None),
                }
            })
        }
    }

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl EventSink for Heard {
        fn emit(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn questions() -> (Questions, Arc<AtomicUsize>, Arc<Heard>) {
        let (program, heard) = (Program::default(), Arc::<Heard>::default());
        let waiting = Arc::clone(&program.0);
        let events = Events::new(Arc::clone(&heard) as _);
        (Questions::new(Some(Arc::new(program)), Duration::from_secs(5), events), waiting, heard)
    }

    fn from(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 1).into()
    }

    fn with(token: &str) -> Question {
        let token = Some(Shown(token.to_owned()));
        Question { public_key: None, token, name: None, remote_addr: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_yes_is_a_yes_and_everything_else_a_no() {
        let (questions, _, heard) = questions();
        assert_eq!(questions.ask(from(1), with("yes")).await, Ok(json!({ "clientId": "a" })));
        assert_eq!(questions.ask(from(1), with("no")).await, Err(RejectCode::Unauthorized));
        assert!(heard.0.lock().unwrap().is_empty());
        assert_eq!(questions.ask(from(1), with("fails")).await, Err(RejectCode::Unauthorized));
        // Who came at a bad moment may come again.
        assert_eq!(questions.ask(from(1), with("waits")).await, Err(RejectCode::ServerFull));
        let heard = heard.0.lock().unwrap();
        assert!(
            matches!(&heard[0], Event::Warning { code: "authenticate-failed", message, .. } if message.contains("no database"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_few_at_a_time_and_for_each_source_and_given_back() {
        let (questions, waiting, _) = questions();
        let mut open = Vec::new();
        for source in 0..16 {
            for _ in 0..4 {
                open.push(Box::pin(questions.ask(from(source), with("waits"))));
            }
        }
        for question in &mut open {
            assert!(futures_util::poll!(question).is_pending());
        }
        assert_eq!(waiting.load(Ordering::Relaxed), 64);
        // Neither anybody else nor, when there is room, a fifth of one source.
        assert_eq!(questions.ask(from(99), with("yes")).await, Err(RejectCode::ServerFull));
        assert_eq!(
            questions.asked.lock().unwrap().len(),
            16,
            "who was not asked about leaves nothing behind"
        );
        open.truncate(63);
        assert_eq!(questions.ask(from(0), with("yes")).await, Err(RejectCode::ServerFull));
        assert!(questions.ask(from(99), with("yes")).await.is_ok());
        // Connections that go take their questions along.
        drop(open);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        assert!(questions.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn tokens_are_not_printed() {
        assert!(!format!("{:?}", with("hunter2")).contains("hunter2"));
    }
}
