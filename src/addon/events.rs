//! Events and answers on their way to the JavaScript thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use napi::Status;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode};

use crate::report::{Event, EventSink};

/// Events that may wait for a busy JavaScript thread; more are counted, and the count goes with the
/// next one that is taken. At a few hundred bytes each this holds well under a MiB.
const EVENTS: usize = 256;

/// Answers that may wait. Requests beyond it are refused, so that no answer is ever lost.
pub(super) const ANSWERS: usize = 1024;

type EventArgs = FnArgs<(String, String, u32)>;
type AnswerArgs = FnArgs<(u32, bool, String)>;

/// The JavaScript function for events, which never holds the event loop.
pub(super) struct JsEvents {
    callback: ThreadsafeFunction<(String, String), (), EventArgs, Status, false, true, EVENTS>,
    /// Events that found no room since the JavaScript thread last took one.
    lost: Arc<AtomicU32>,
}

impl JsEvents {
    pub(super) fn new(function: &Function<'_, EventArgs, ()>) -> napi::Result<Self> {
        let lost = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&lost);
        let builder = function.build_threadsafe_function::<(String, String)>();
        let callback = builder.weak::<true>().max_queue_size::<EVENTS>().build_callback(
            move |context: ThreadsafeCallContext<(String, String)>| {
                let (name, data) = context.value;
                Ok(FnArgs::from((name, data, told.swap(0, Ordering::Relaxed))))
            },
        )?;
        Ok(Self { callback, lost })
    }
}

impl EventSink for JsEvents {
    fn emit(&self, event: Event) {
        let args = (event.name().to_owned(), event.data().to_string());
        if self.callback.call(args, ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            // The queue was full, so that one more event will be taken and tell of this one.
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
