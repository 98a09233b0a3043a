//! The peer in Rust: marks in a `HashMap<u16, Arc<AtomicU64>>` that a compare-exchange advances, checkpoints by serde_json.
//! It answers the same lines as bench/workers/marks.c, and does the same work in the same order.

use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

struct State {
    marks: HashMap<u16, Arc<AtomicU64>>,
}

impl State {
    fn new(shards: &[u16]) -> State {
        State { marks: shards.iter().map(|&shard| (shard, Arc::new(AtomicU64::new(0)))).collect() }
    }

    fn applied_seqno(&self, shard: u16) -> Option<u64> {
        self.marks.get(&shard).map(|mark| mark.load(Ordering::Acquire))
    }

    fn advance(&self, shard: u16, seqno: u64) -> Option<bool> {
        let mark = self.marks.get(&shard)?;
        let mut current = mark.load(Ordering::Acquire);
        while current < seqno {
            match mark.compare_exchange_weak(current, seqno, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(true),
                Err(other) => current = other,
            }
        }
        Some(false)
    }

    fn snapshot(&self) -> HashMap<u16, u64> {
        self.marks.iter().map(|(&shard, mark)| (shard, mark.load(Ordering::Acquire))).collect()
    }

    fn snapshot_into(&self, pairs: &mut Vec<(u16, u64)>) {
        pairs.clear();
        pairs.extend(self.marks.iter().map(|(&shard, mark)| (shard, mark.load(Ordering::Acquire))));
    }

    fn from_json(text: &str, shards: &[u16]) -> State {
        let marks: HashMap<u16, u64> = serde_json::from_str(text).unwrap();
        let found = |shard| AtomicU64::new(marks.get(shard).copied().unwrap_or(0));
        State { marks: shards.iter().map(|shard| (*shard, Arc::new(found(shard)))).collect() }
    }
}

/// Marks straight to JSON, without a map of plain numbers in between.
impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.marks.iter().map(|(shard, mark)| (shard, mark.load(Ordering::Acquire))))
    }
}

/// Takes what must not be optimized away.
fn sink(value: u64) {
    let mut place = 0u64;
    unsafe { std::ptr::write_volatile(&mut place, value) };
}

struct Case {
    name: String,
    state: State,
    shards: Vec<u16>,
    order: Vec<u16>,
    seqno: u64,
    map: HashMap<u16, u64>,
    text: String,
    pairs: Vec<(u16, u64)>,
    buffer: Vec<u8>,
    threads: usize,
    count: u64,
}

impl Case {
    fn new(name: &str, size: usize, threads: usize) -> Case {
        let shards: Vec<u16> = (0..size).map(|shard| shard as u16).collect();
        let state = State::new(&shards);
        let mut seqno = 1u64 << 40;
        let mut order = vec![0u16; size];
        let mut random = 1u64;
        for i in 0..size {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let other = (random >> 33) as usize % (i + 1);
            order[i] = order[other];
            order[other] = i as u16;
            state.advance(i as u16, seqno + i as u64);
        }
        seqno += size as u64;
        let map = state.snapshot();
        let text = serde_json::to_string(&map).unwrap();
        Case { name: name.to_string(), state, shards, order, seqno, map, text, pairs: Vec::new(), buffer: Vec::new(), threads, count: 1 }
    }

    fn run(&mut self) {
        match self.name.as_str() {
            "read" => self.read(),
            "stale" => self.stale(),
            "rising" => self.rising(),
            "advance_threads" => self.advance_threads(),
            "read_threads" => self.read_threads(),
            "snapshot" => (0..self.count).for_each(|_| sink(self.state.snapshot().len() as u64)),
            // what the next two fill is kept from call to call, as in C
            "snapshot_kept" => (0..self.count).for_each(|_| {
                self.state.snapshot_into(&mut self.pairs);
                sink(self.pairs.len() as u64);
            }),
            "encode_kept" => (0..self.count).for_each(|_| {
                self.buffer.clear();
                serde_json::to_writer(&mut self.buffer, &self.state).unwrap();
                sink(self.buffer.len() as u64);
            }),
            "encode" => (0..self.count).for_each(|_| sink(serde_json::to_string(&self.state).unwrap().len() as u64)),
            // of a map that is there already: what it takes to make it is not counted
            "encode_map" => (0..self.count).for_each(|_| sink(serde_json::to_string(&self.map).unwrap().len() as u64)),
            "decode" => (0..self.count).for_each(|_| {
                sink(State::from_json(&self.text, &self.shards).marks.len() as u64);
            }),
            _ => panic!("no such case"),
        }
    }

    fn read(&self) {
        let (mut sum, mut at) = (0u64, 0);
        for _ in 0..self.count {
            sum = sum.wrapping_add(self.state.applied_seqno(self.order[at]).unwrap());
            at += 1;
            if at == self.order.len() {
                at = 0;
            }
        }
        sink(sum);
    }

    fn stale(&self) {
        let (mut moved, mut at) = (0u64, 0);
        for _ in 0..self.count {
            moved += self.state.advance(self.order[at], 1).unwrap() as u64;
            at += 1;
            if at == self.order.len() {
                at = 0;
            }
        }
        sink(moved);
    }

    fn rising(&mut self) {
        let (mut moved, mut at) = (0u64, 0);
        for _ in 0..self.count {
            self.seqno += 1;
            moved += self.state.advance(self.order[at], self.seqno).unwrap() as u64;
            at += 1;
            if at == self.order.len() {
                at = 0;
            }
        }
        sink(moved);
    }

    fn advance_threads(&mut self) {
        let (state, first, count) = (&self.state, self.seqno + 1, self.count);
        std::thread::scope(|scope| {
            for shard in 0..self.threads {
                scope.spawn(move || {
                    for seqno in first..first + count {
                        state.advance(shard as u16, seqno);
                    }
                });
            }
        });
        self.seqno += count;
    }

    fn read_threads(&self) {
        let (state, count) = (&self.state, self.count);
        std::thread::scope(|scope| {
            for shard in 0..self.threads {
                scope.spawn(move || {
                    let mut sum = 0u64;
                    for _ in 0..count {
                        sum = sum.wrapping_add(state.applied_seqno(shard as u16).unwrap());
                    }
                    sink(sum);
                });
            }
        });
    }

    fn time(&mut self) -> f64 {
        let start = Instant::now();
        self.run();
        start.elapsed().as_secs_f64()
    }
}

#[repr(C)]
struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

extern "C" {
    fn mallinfo2() -> Mallinfo2;
}

/// Bytes of the heap that a state takes: the mean of several, for a few bytes more or less are malloc's.
fn memory(size: usize) -> f64 {
    let copies = 1 + 100000 / size;
    let used = || unsafe {
        let info = mallinfo2();
        (info.uordblks + info.hblkhd) as f64
    };
    let shards: Vec<u16> = (0..size).map(|shard| shard as u16).collect();
    let mut states: Vec<State> = Vec::with_capacity(copies);
    let before = used();
    states.extend((0..copies).map(|_| State::new(&shards)));
    (used() - before) / copies as f64
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).map_or(0.01, |text| text.parse().unwrap());
    let mut cases: HashMap<String, Case> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words.get(i).map_or(1, |word| word.parse().unwrap());
        if words[0] == "memory" {
            println!("{}", memory(number(1)));
            continue;
        }
        let case = cases.entry(line.clone()).or_insert_with(|| {
            let mut case = Case::new(words[0], number(1), number(2));
            while case.time() < seconds {
                case.count *= 2;
            }
            case
        });
        let value = case.time() / case.count as f64 * 1e9;
        println!("{}", value);
        std::io::stdout().flush().unwrap();
    }
}
