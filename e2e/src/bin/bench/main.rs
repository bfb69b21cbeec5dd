//! Measures how fast three peers on this machine take and place pins, beside a floor made in the same
//! run, and says so in one table.
//!
//! `bench [rows …]`; without names all rows are measured and `docs/benchmarks.md` is written. The
//! peers are processes of the shipped program; daemons' stand-ins and clients run in this one.

mod cluster;
mod direct;
mod floor;
mod http;
mod load;
mod machine;
mod outage;
mod pinned;
mod profile;
mod report;
mod rows;
mod stats;

use std::{fmt::Write as _, path::PathBuf, time::Instant};

use anyhow::Context as _;

use crate::{
    load::Numbers,
    report::{Figures, Row},
    rows::{MEASUREMENTS, Measurement},
};

/// Runs of each measurement, unless `PINKEEPER_BENCH_RUNS` says otherwise.
const RUNS: usize = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&Measurement> = if names.is_empty() {
        MEASUREMENTS.iter().collect()
    } else {
        names.iter().map(|name| named(name)).collect::<anyhow::Result<_>>()?
    };
    let runs = match std::env::var("PINKEEPER_BENCH_RUNS") {
        Ok(text) => text.parse().context("PINKEEPER_BENCH_RUNS is no number")?,
        Err(_) => RUNS,
    };
    let begin = Instant::now();
    let numbers = Numbers::default();
    let mut figures = Figures::default();
    for run in 1..=runs {
        for measurement in &wanted {
            let name = measurement.name;
            eprintln!("{:4} s: run {run} of {runs}: {name}", begin.elapsed().as_secs());
            for figure in (measurement.run)(numbers.clone()).await.with_context(|| name)? {
                let floor = figure.floor.map(|floor| format!(", floor {}", stats::number(floor)));
                let value = stats::number(figure.value);
                eprintln!("        {}: {value}{}", figure.key, floor.unwrap_or_default());
                figures.add(figure);
            }
        }
    }
    let rows: Vec<Row> = wanted.iter().flat_map(|wanted| (wanted.rows)()).collect();
    let table = figures.table(&rows);
    if !names.is_empty() {
        print!("{table}");
        return Ok(());
    }
    eprintln!("{:4} s: where the time goes", begin.elapsed().as_secs());
    let profile = match profile::measure(&numbers).await {
        Ok(table) => table,
        Err(error) => format!("Not known: {error:#}.\n"),
    };
    let page = page(&table, runs, &profile);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    std::fs::write(&path, &page)?;
    print!("{page}");
    eprintln!("{:4} s: written to docs/benchmarks.md", begin.elapsed().as_secs());
    Ok(())
}

fn named(name: &str) -> anyhow::Result<&'static Measurement> {
    MEASUREMENTS.iter().find(|measurement| measurement.name == name).with_context(|| {
        let names: Vec<&str> = MEASUREMENTS.iter().map(|measurement| measurement.name).collect();
        format!("there is no row {name:?}; there are {}", names.join(", "))
    })
}

/// All that was found out, as Markdown.
fn page(table: &str, runs: usize, profile: &str) -> String {
    let mut page = format!(
        "# Benchmarks\n\n\
         Made by `make bench`; do not edit. Three peers with default settings and the \
         chart's environment, their daemons or stand-ins for them, and the clients share one \
         machine. Each value is the median of {runs} runs, each with clusters of its own; the floor \
         was measured in the same runs. Stand-in daemons take 1 s for a pin where nothing else is \
         said.\n\n"
    );
    page.push_str("| | |\n|---|---|\n");
    for (name, value) in machine::describe() {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    let _ = write!(
        page,
        "\n{table}\n\
         ## Where the time goes\n\n\
         Of the three peers' processor time while 64 clients pin at the leader, by the function that \
         ran (`perf`, without the clients and the stand-in daemons):\n\n{profile}"
    );
    page
}
