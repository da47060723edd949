//! Writes lines as fast as they are taken: what `cargo xtask bench log` puts into a container.
//!
//! `writer BYTES LINE RESULT` writes at least so many bytes to its standard output, in lines of LINE bytes and writes of
//! 4 KiB, then bytes and nanoseconds into the file RESULT, and sleeps until it is killed.

use std::error::Error;
use std::time::Instant;

/// Bytes of one write.
const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bytes, line, result] = arguments.as_slice() else { return Err("writer BYTES LINE RESULT".into()) };
    let line: usize = line.parse()?;
    let mut text = vec![b'x'; line];
    *text.last_mut().ok_or("a line has at least one byte")? = b'\n';
    // Whole lines and whole blocks.
    let round = text.repeat(BLOCK);
    let rounds = bytes.parse::<usize>()?.div_ceil(round.len());
    let started = Instant::now();
    for _ in 0..rounds {
        for block in round.chunks(BLOCK) {
            write(block)?;
        }
    }
    let took = started.elapsed();
    let partial = format!("{result}.tmp");
    std::fs::write(&partial, format!("{} {}", rounds * round.len(), took.as_nanos()))?;
    std::fs::rename(partial, result)?;
    loop {
        std::thread::park();
    }
}

fn write(mut block: &[u8]) -> Result<(), Box<dyn Error>> {
    while !block.is_empty() {
        let count = rustix::io::write(rustix::stdio::stdout(), block)?;
        block = block.get(count..).unwrap_or_default();
    }
    Ok(())
}
