//! Events and answers on their way to the JavaScript thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use napi::Status;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use serde_json::json;

use crate::report::{Event, EventSink};

/// Events that may wait for a busy JavaScript thread; more are counted and told as `lost`. At a
/// few hundred bytes each this holds well under a MiB.
const EVENTS: usize = 256;

/// Answers that may wait. Requests beyond it are refused, so that no answer is ever lost.
pub(super) const ANSWERS: usize = 1024;

type EventArgs = FnArgs<(String, String)>;
type AnswerArgs = FnArgs<(u32, bool, String)>;

/// The JavaScript function for events, which never holds the event loop.
pub(super) struct JsEvents {
    callback: ThreadsafeFunction<EventArgs, (), EventArgs, Status, false, true, EVENTS>,
    lost: AtomicUsize,
}

impl JsEvents {
    pub(super) fn new(function: &Function<'_, EventArgs, ()>) -> napi::Result<Self> {
        let builder = function.build_threadsafe_function::<EventArgs>();
        let callback =
            builder.weak::<true>().max_queue_size::<EVENTS>().build_callback(|context| Ok(context.value))?;
        Ok(Self { callback, lost: AtomicUsize::new(0) })
    }

    fn send(&self, name: &str, data: String) -> bool {
        let args = FnArgs::from((name.to_owned(), data));
        self.callback.call(args, ThreadsafeFunctionCallMode::NonBlocking) == Status::Ok
    }
}

impl EventSink for JsEvents {
    fn emit(&self, event: Event) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.send("lost", json!({ "count": lost }).to_string()) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if !self.send(event.name(), event.data().to_string()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The JavaScript function for answers.
pub(super) struct JsAnswers {
    callback: ThreadsafeFunction<AnswerArgs, (), AnswerArgs, Status, false, true, ANSWERS>,
    /// Requests whose answers the JavaScript thread has not taken yet.
    waiting: Arc<AtomicU32>,
}

impl JsAnswers {
    pub(super) fn new(function: &Function<'_, AnswerArgs, ()>) -> napi::Result<Self> {
        let waiting = Arc::new(AtomicU32::new(0));
        let taken = Arc::clone(&waiting);
        let builder = function.build_threadsafe_function::<AnswerArgs>();
        let callback = builder.weak::<true>().max_queue_size::<ANSWERS>().build_callback(move |context| {
            taken.fetch_sub(1, Ordering::Relaxed);
            Ok(context.value)
        })?;
        Ok(Self { callback, waiting })
    }

    /// Makes room for one more answer. False if too many wait.
    pub(super) fn expect(&self) -> bool {
        let room = |waiting: u32| ((waiting as usize) < ANSWERS).then(|| waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Answers a request that was expected. Refused only when the environment is going away.
    pub(super) fn send(&self, id: u32, success: bool, body: String) {
        let _status =
            self.callback.call(FnArgs::from((id, success, body)), ThreadsafeFunctionCallMode::NonBlocking);
    }
}
