//! The values of the store, and who waits for one.
//!
//! Invariant: whoever waits holds no lock; a waiter is woken by its own key only, so that a thousand
//! processes that wait for one key are not woken by every other.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{Reply, Request};
use super::{GONE, KEY, Limits, VALUE};

/// The longest that a request may wait, whatever it asks for.
const LONGEST: Duration = Duration::from_hours(24);

pub(super) struct Table {
    state: Mutex<State>,
    keys: usize,
    bytes: usize,
}

#[derive(Default)]
struct State {
    values: HashMap<String, Vec<u8>>,
    bytes: usize,
    waiting: HashMap<String, Waiting>,
    closed: bool,
}

/// Those who wait for one key.
#[derive(Default)]
struct Waiting {
    signal: Arc<Condvar>,
    count: usize,
}

impl Table {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            keys: limits.keys,
            bytes: limits.bytes,
        }
    }

    /// Does what a request asks for.
    pub(super) fn answer(&self, request: Request) -> Reply {
        self.apply(request).unwrap_or_else(Reply::Refused)
    }

    /// Lets all who wait go without a value, now and later.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waiting in state.waiting.values() {
            waiting.signal.notify_all();
        }
    }

    fn apply(&self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Set { key, value } => {
                self.put(&mut self.lock(), key, value)?;
                Ok(Reply::Done)
            }
            Request::Get { key } => Ok(Reply::Value(self.lock().values.get(&key).cloned())),
            Request::Wait { key, milliseconds } => {
                check_key(&key)?;
                let patience = Duration::from_millis(milliseconds).min(LONGEST);
                Ok(Reply::Value(self.wait(&key, Instant::now() + patience)))
            }
            Request::Add { key, amount } => self.add(key, amount),
            Request::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let mut state = self.lock();
                if state.values.get(&key) != expected.as_ref() {
                    return Ok(Reply::Differs(state.values.get(&key).cloned()));
                }
                self.put(&mut state, key, value)?;
                Ok(Reply::Done)
            }
            // The server remembers them with the connection.
            Request::Announce { .. } | Request::Leave => Ok(Reply::Done),
        }
    }

    /// Notes that a process ended without having left; the first stays.
    pub(super) fn note_gone(&self, process: usize) {
        let mut state = self.lock();
        if !state.values.contains_key(GONE) {
            let value = (process as u64).to_le_bytes().to_vec();
            // A full store has other troubles, which its clients are told.
            let _ = self.put(&mut state, GONE.to_owned(), value);
        }
    }

    fn add(&self, key: String, amount: i64) -> Result<Reply, String> {
        let mut state = self.lock();
        let number = match state.values.get(&key) {
            None => 0,
            Some(value) => {
                let bytes = value.as_slice().try_into();
                i64::from_le_bytes(bytes.map_err(|_| format!("the value of {key:?} is no number"))?)
            }
        };
        let sum = number.checked_add(amount);
        let sum = sum.ok_or_else(|| format!("{number} + {amount} at {key:?} is too large"))?;
        self.put(&mut state, key, sum.to_le_bytes().to_vec())?;
        Ok(Reply::Number(sum))
    }

    fn put(&self, state: &mut State, key: String, value: Vec<u8>) -> Result<(), String> {
        check_key(&key)?;
        if value.len() > VALUE {
            let length = value.len();
            return Err(format!("a value of {length} bytes; {VALUE} are allowed"));
        }
        let before = state.values.get(&key).map(|old| key.len() + old.len());
        if before.is_none() && state.values.len() >= self.keys {
            return Err(format!("the store holds its {} keys", self.keys));
        }
        let bytes = state.bytes - before.unwrap_or(0) + key.len() + value.len();
        if bytes > self.bytes {
            return Err(format!(
                "the store would hold more than {} bytes",
                self.bytes
            ));
        }
        state.bytes = bytes;
        if let Some(waiting) = state.waiting.get(&key) {
            waiting.signal.notify_all();
        }
        state.values.insert(key, value);
        Ok(())
    }

    fn wait(&self, key: &str, deadline: Instant) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let waiting = state.waiting.entry(key.to_owned()).or_default();
        waiting.count += 1;
        let signal = Arc::clone(&waiting.signal);
        let found = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.values.contains_key(key) || state.closed || left.is_zero() {
                break state.values.get(key).cloned();
            }
            state = signal
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        if let Some(waiting) = state.waiting.get_mut(key) {
            waiting.count -= 1;
            if waiting.count == 0 {
                state.waiting.remove(key);
            }
        }
        found
    }

    /// Checks that what is held is what was counted, and within the limits.
    #[cfg(any(test, fuzzing))]
    pub(super) fn assert_within(&self, limits: &Limits) {
        let state = self.lock();
        let held: usize = state.values.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert_eq!(state.bytes, held);
        assert!(held <= limits.bytes && state.values.len() <= limits.keys);
        assert!(state.waiting.is_empty());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_key(key: &str) -> Result<(), String> {
    if key.len() > KEY {
        let length = key.len();
        return Err(format!("a key of {length} bytes; {KEY} are allowed"));
    }
    Ok(())
}
