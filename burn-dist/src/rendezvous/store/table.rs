//! The values of the store, and the requests that wait for one.
//!
//! Invariant: a request waits without a lock, and is woken for its own key only: a thousand processes that wait
//! for one key are not woken by every other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::wire::{Reply, Request};
use super::{GONE, Limits, MAX_KEY, MAX_VALUE};

/// Longest wait of a request, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_hours(24);

pub(super) struct Table {
    state: Mutex<TableState>,
    keys: usize,
    bytes: usize,
}

#[derive(Default)]
struct TableState {
    values: HashMap<String, Vec<u8>>,
    bytes: usize,
    waiting: HashMap<String, KeyWaiters>,
    closed: bool,
}

/// Requests that wait for one key.
#[derive(Default)]
struct KeyWaiters {
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

    /// Executes a request.
    pub(super) fn answer(&self, request: Request) -> Reply {
        self.apply(request).unwrap_or_else(Reply::Refused)
    }

    /// Ends all waits without a value, now and later.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for waiting in state.waiting.values() {
            waiting.signal.notify_all();
        }
    }

    fn apply(&self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Set { key, value } => {
                self.put(&mut self.state.lock(), key, value)?;
                Ok(Reply::Done)
            }
            Request::Get { key } => Ok(Reply::Value(self.state.lock().values.get(&key).cloned())),
            Request::Wait { key, milliseconds } => {
                check_key(&key)?;
                let patience = Duration::from_millis(milliseconds).min(MAX_WAIT);
                Ok(Reply::Value(self.wait(&key, Instant::now() + patience)))
            }
            Request::Add { key, amount } => self.add(key, amount),
            Request::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let mut state = self.state.lock();
                if state.values.get(&key) != expected.as_ref() {
                    return Ok(Reply::Differs(state.values.get(&key).cloned()));
                }
                self.put(&mut state, key, value)?;
                Ok(Reply::Done)
            }
            // The server keeps them with the connection.
            Request::Announce { .. } | Request::Leave => Ok(Reply::Done),
        }
    }

    /// Records that a process ended without having left, unless one had before.
    pub(super) fn note_gone(&self, process: usize) {
        let mut state = self.state.lock();
        if !state.values.contains_key(GONE) {
            let value = (process as u64).to_le_bytes().to_vec();
            // Clients of a full store are told so by their own requests.
            let _ = self.put(&mut state, GONE.to_owned(), value);
        }
    }

    fn add(&self, key: String, amount: i64) -> Result<Reply, String> {
        let mut state = self.state.lock();
        let number = match state.values.get(&key) {
            None => 0,
            Some(value) => {
                let bytes = value.as_slice().try_into();
                i64::from_le_bytes(
                    bytes.map_err(|_| format!("value of {key:?}: expected a number"))?,
                )
            }
        };
        let sum = number.checked_add(amount);
        let sum = sum.ok_or_else(|| format!("{number} + {amount} at {key:?} is too large"))?;
        self.put(&mut state, key, sum.to_le_bytes().to_vec())?;
        Ok(Reply::Number(sum))
    }

    fn put(&self, state: &mut TableState, key: String, value: Vec<u8>) -> Result<(), String> {
        check_key(&key)?;
        if value.len() > MAX_VALUE {
            let length = value.len();
            return Err(format!(
                "value: expected at most {MAX_VALUE} bytes, got {length}"
            ));
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
        let mut state = self.state.lock();
        let waiting = state.waiting.entry(key.to_owned()).or_default();
        waiting.count += 1;
        let signal = Arc::clone(&waiting.signal);
        let found = loop {
            if state.values.contains_key(key) || state.closed || Instant::now() >= deadline {
                break state.values.get(key).cloned();
            }
            signal.wait_until(&mut state, deadline);
        };
        if let Some(waiting) = state.waiting.get_mut(key) {
            waiting.count -= 1;
            if waiting.count == 0 {
                state.waiting.remove(key);
            }
        }
        found
    }

    /// Checks that the values are those that were counted, and within the limits.
    #[cfg(any(test, fuzzing))]
    pub(super) fn assert_within(&self, limits: &Limits) {
        let state = self.state.lock();
        let held: usize = state.values.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert_eq!(state.bytes, held);
        assert!(held <= limits.bytes && state.values.len() <= limits.keys);
        assert!(state.waiting.is_empty());
    }
}

fn check_key(key: &str) -> Result<(), String> {
    if key.len() > MAX_KEY {
        let length = key.len();
        return Err(format!(
            "key: expected at most {MAX_KEY} bytes, got {length}"
        ));
    }
    Ok(())
}
