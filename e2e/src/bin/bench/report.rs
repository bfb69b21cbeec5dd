//! The table that people read. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::stats::{Sample, number};

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Names it in figures.
    pub(crate) key: String,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// What the design asks for; empty when it asks for nothing.
    pub(crate) goal: &'static str,
    /// What the same run did without Pinkeeper; empty when there is nothing to compare with.
    pub(crate) floor: &'static str,
}

/// One run's value of a row, and of its floor.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its row's.
    pub(crate) key: String,
    pub(crate) value: f64,
    pub(crate) floor: Option<f64>,
}

/// Figures of all runs, by row.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, (Vec<f64>, Vec<f64>)>);

impl Figures {
    pub(crate) fn add(&mut self, figure: Figure) {
        let (values, floors) = self.0.entry(figure.key).or_default();
        values.push(figure.value);
        floors.extend(figure.floor);
    }

    /// The table of the rows that were measured, as Markdown.
    pub(crate) fn table(&self, rows: &[Row]) -> String {
        let mut table = "| what | goal | median | min – max | floor | of the floor |\n\
                         |---|---|---|---|---|---|\n"
            .to_owned();
        for row in rows {
            let Some((values, floors)) = self.0.get(&row.key) else { continue };
            let Some(sample) = Sample::new(values.clone()) else { continue };
            let (floor, share) = match Sample::new(floors.clone()) {
                Some(floor) => {
                    let share = 100.0 * sample.median() / floor.median();
                    (format!("{} ({})", number(floor.median()), row.floor), format!("{share:.0} %"))
                }
                None => ("–".to_owned(), "–".to_owned()),
            };
            let (median, min, max) = (sample.median(), sample.min(), sample.max());
            let _ = writeln!(
                table,
                "| {}, {} | {} | {} | {} – {} | {floor} | {share} |",
                row.what,
                row.unit,
                if row.goal.is_empty() { "–" } else { row.goal },
                number(median),
                number(min),
                number(max),
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, what: &str) -> Row {
        let (key, what) = (key.to_owned(), what.to_owned());
        Row { key, what, unit: "pins/s", goal: "≥ 10", floor: "a stone" }
    }

    #[test]
    fn rows_have_medians_spreads_and_floors_and_unmeasured_ones_are_left_out() {
        let mut figures = Figures::default();
        for (value, floor) in [(3000.0, 4000.0), (1000.0, 4000.0), (2000.0, 5000.0)] {
            figures.add(Figure { key: "a".to_owned(), value, floor: Some(floor) });
        }
        figures.add(Figure { key: "b".to_owned(), value: 0.5, floor: None });
        let rows = [
            row("a", "speed"),
            Row { unit: "s", goal: "", floor: "", ..row("b", "outage") },
            row("c", "speed"),
        ];
        let table = figures.table(&rows);
        let lines: Vec<&str> = table.lines().skip(2).collect();
        let first = "| speed, pins/s | ≥ 10 | 2,000 | 1,000 – 3,000 | 4,000 (a stone) | 50 % |";
        assert_eq!(lines, [first, "| outage, s | – | 0.50 | 0.50 – 0.50 | – | – |"]);
    }
}
