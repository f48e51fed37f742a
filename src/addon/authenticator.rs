//! `authenticate`: questions on their way to the JavaScript thread, and what it answers.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use napi::Status;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::server::{Answer, Authenticator, Question};

/// Questions and withdrawals that may wait for a busy JavaScript thread: more than the server asks at a time, twice.
const QUESTIONS: usize = 256;

/// A question as JSON text, or none to take it back.
type QuestionArgs = FnArgs<(u32, Option<String>)>;

/// The JavaScript function that is asked, which never holds the event loop.
pub(super) struct JsAuthenticator(Arc<Inner>);

struct Inner {
    callback: ThreadsafeFunction<QuestionArgs, (), QuestionArgs, Status, false, true, QUESTIONS>,
    /// Who waits for which answer.
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    questions: AtomicU32,
}

impl JsAuthenticator {
    pub(super) fn new(function: &Function<'_, QuestionArgs, ()>) -> napi::Result<Self> {
        let builder = function.build_threadsafe_function::<QuestionArgs>();
        let builder = builder.weak::<true>().max_queue_size::<QUESTIONS>();
        let callback = builder.build_callback(|context| Ok(context.value))?;
        let inner = Inner { callback, waiting: Mutex::default(), questions: AtomicU32::new(0) };
        Ok(Self(Arc::new(inner)))
    }

    /// The answer to a question: JSON text, none for no, or what was thrown. Of no effect when nobody waits any more.
    pub(super) fn answer(&self, id: u32, answer: Option<&str>, failure: Option<String>) {
        let Some(waiting) = self.0.take(id) else { return };
        let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        let answer = match failure {
            Some(failure) => Err(failure),
            None => answer.map(parse).transpose(),
        };
        // Who does not wait any more has no use for it.
        let _unheard = waiting.send(answer);
    }
}

impl Clone for JsAuthenticator {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Authenticator for JsAuthenticator {
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let id = inner.questions.fetch_add(1, Ordering::Relaxed);
            let (sender, answer) = oneshot::channel();
            inner.waiting().insert(id, sender);
            let _asked = Asked { inner: &inner, id };
            let text = serde_json::to_string(&question).map_err(|error| error.to_string())?;
            if !inner.call(id, Some(text)) {
                return Err("the JavaScript thread is too busy to be asked".to_owned());
            }
            answer.await.unwrap_or_else(|_| Err("the program is ending".to_owned()))
        })
    }
}

impl Inner {
    fn call(&self, id: u32, question: Option<String>) -> bool {
        let args = FnArgs::from((id, question));
        self.callback.call(args, ThreadsafeFunctionCallMode::NonBlocking) == Status::Ok
    }

    fn take(&self, id: u32) -> Option<oneshot::Sender<Answer>> {
        self.waiting().remove(&id)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the question back if it ends unanswered.
struct Asked<'a> {
    inner: &'a Inner,
    id: u32,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.inner.take(self.id).is_some() {
            // Where there is no room the program learns by its answer's having no effect.
            let _told = self.inner.call(self.id, None);
        }
    }
}
