//! A run as one HTML file that opens without a network, in light and dark: what was expected, how long things took, and
//! how it went over time.

use std::fmt::Write as _;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::network::NetworkCounts;
use super::record::{Mark, Record};
use super::verdict::Verdict;
use crate::summary::{Latency, Summary};
use crate::world::Chronicle;

const SIZE: (u32, u32) = (860, 240);
/// The plots are drawn in these colours, which the style sheet then replaces by those of the reader's theme.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const FIRST: RGBColor = RGBColor(3, 3, 3);
const SECOND: RGBColor = RGBColor(4, 4, 4);
const MARK: RGBColor = RGBColor(5, 5, 5);
const THEME: [(&str, &str); 5] =
    [("#010101", "ink"), ("#020202", "grid"), ("#030303", "first"), ("#040404", "second"), ("#050505", "mark")];

const STYLE: &str = "
:root { color-scheme: light dark; --ink: light-dark(#1b1b1f, #e6e6ea); --page: light-dark(#ffffff, #17171a);
  --grid: light-dark(#dcdce2, #3a3a42); --first: light-dark(#1f6feb, #6cb0ff); --second: light-dark(#c2410c, #ffa057);
  --mark: light-dark(#7c3aed, #c4a5ff); --good: light-dark(#15803d, #6fdd8b); --bad: light-dark(#b91c1c, #ff8b8b); }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.met { color: var(--good); } .broken { color: var(--bad); font-weight: 600; }
figure { margin: 1.5rem 0; overflow-x: auto; } figcaption { margin-bottom: .25rem; }
svg { display: block; width: 100%; min-width: 38rem; height: auto; }
.first { color: var(--first); } .second { color: var(--second); }";

/// A line of a plot, in the stretches that have values.
type Line = Vec<Vec<(f64, f64)>>;

/// What a report is about.
#[derive(Debug)]
pub struct Report<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was done, in a sentence.
    pub story: &'a str,
    /// What was expected; may be empty.
    pub verdicts: &'a [Verdict],
    /// Further remarks.
    pub notes: &'a [String],
    /// What a bad network did, if there was one.
    pub network: Option<&'a NetworkCounts>,
    /// Counts and latencies.
    pub summary: &'a Summary,
    /// The course of it.
    pub record: &'a Record,
}

impl Report<'_> {
    /// The whole file.
    ///
    /// # Errors
    /// What the plotting library could not draw.
    pub fn to_html(&self) -> Result<String, String> {
        page(|html| self.write(html))
    }

    fn write(&self, html: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        write_head(html, self.title, self.story)?;
        write_verdicts(html, self.verdicts)?;
        for note in self.notes {
            writeln!(html, "<p>{}</p>", escaped(note))?;
        }
        self.write_latencies(html)?;
        self.write_counts(html)?;
        let samples = &self.record.samples;
        // Nothing is online, and nothing acknowledged, at the start.
        let from_nothing = |value: fn(&super::Sample) -> f64| -> Line {
            let points = samples.iter().map(|sample| (sample.at_s, value(sample)));
            vec![std::iter::once((0.0, 0.0)).chain(points).collect()]
        };
        // Where nothing was acknowledged, nothing took any time: there the line is interrupted.
        let while_acknowledging = |value: fn(&super::Sample) -> Option<f64>| -> Line {
            let points = samples.iter().map(|sample| Some((sample.at_s, value(sample)?))).collect::<Vec<_>>();
            let stretches = points.split(Option::is_none).filter(|stretch| !stretch.is_empty());
            stretches.map(|stretch| stretch.iter().copied().flatten().collect()).collect()
        };
        let online = from_nothing(|sample| sample.online as f64);
        let rate = from_nothing(|sample| sample.acknowledged_per_s);
        let p50 = while_acknowledging(|sample| sample.publish_p50_ms);
        let p99 = while_acknowledging(|sample| sample.publish_p99_ms);
        let end = samples.last().map_or(1.0, |sample| sample.at_s).max(1.0);
        let course = Course { end, unit: "s", marks: &self.record.marks };
        write_plot(html, &course, "<span class=\"first\">Devices online</span>", &[(&online, FIRST)])?;
        write_plot(html, &course, "<span class=\"first\">Publishes acknowledged per second</span>", &[(&rate, FIRST)])?;
        let latency =
            "Publish to acknowledgement, ms: <span class=\"first\">half</span> and <span class=\"second\">99 of 100</span>";
        write_plot(html, &course, latency, &[(&p50, FIRST), (&p99, SECOND)])?;
        if !self.record.marks.is_empty() {
            html.push_str("<table><tr><th class=\"number\">Second</th><th>What happened</th></tr>\n");
            for mark in &self.record.marks {
                let (at, what) = (mark.at_s, escaped(&mark.what));
                writeln!(html, "<tr><td class=\"number\">{at:.1}</td><td>{what}</td></tr>")?;
            }
            html.push_str("</table>\n");
        }
        html.push_str("</body></html>\n");
        Ok(())
    }

    fn write_latencies(&self, html: &mut String) -> std::fmt::Result {
        html.push_str(
            "<table><tr><th></th><th class=\"number\">count</th><th class=\"number\">p50 ms</th>\
             <th class=\"number\">p99 ms</th><th class=\"number\">max ms</th></tr>\n",
        );
        for (name, Latency { count, p50_ms, p99_ms, max_ms }) in self.summary.latencies() {
            let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
            writeln!(
                html,
                "<tr><td>{name}</td><td class=\"number\">{count}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
                 <td class=\"number\">{}</td></tr>",
                cell(p50_ms),
                cell(p99_ms),
                cell(max_ms)
            )?;
        }
        html.push_str("</table>\n");
        Ok(())
    }

    fn write_counts(&self, html: &mut String) -> std::fmt::Result {
        html.push_str("<table>\n");
        let network = self.network.map(NetworkCounts::named).into_iter().flatten();
        for (name, value) in self.summary.counts().into_iter().chain(network) {
            writeln!(html, "<tr><td>{name}</td><td class=\"number\">{value}</td></tr>")?;
        }
        let Summary { disconnected_by_reason, failed_by_reason, .. } = self.summary;
        for (what, by_reason) in [("disconnected", disconnected_by_reason), ("gave up", failed_by_reason)] {
            for (reason, count) in by_reason {
                writeln!(html, "<tr><td>{what}: {}</td><td class=\"number\">{count}</td></tr>", escaped(reason))?;
            }
        }
        html.push_str("</table>\n");
        Ok(())
    }
}

/// What `write` writes.
fn page(write: impl FnOnce(&mut String) -> Result<(), Box<dyn std::error::Error>>) -> Result<String, String> {
    let mut html = String::new();
    write(&mut html).map_err(|error| error.to_string())?;
    Ok(html)
}

/// The heading of a file that opens without a network.
fn write_head(html: &mut String, title: &str, story: &str) -> std::fmt::Result {
    let (title, story) = (escaped(title), escaped(story));
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1><p>{story}</p>\n"
    )
}

fn write_verdicts(html: &mut String, verdicts: &[Verdict]) -> std::fmt::Result {
    if verdicts.is_empty() {
        return Ok(());
    }
    html.push_str("<table><tr><th>Expected</th><th>Found</th><th></th></tr>\n");
    for Verdict { expected, found, met } in verdicts {
        let (class, word) = if *met { ("met", "met") } else { ("broken", "not met") };
        let (expected, found) = (escaped(expected), escaped(found));
        writeln!(html, "<tr><td>{expected}</td><td>{found}</td><td class=\"{class}\">{word}</td></tr>")?;
    }
    html.push_str("</table>\n");
    Ok(())
}

/// What passes from left to right in a plot.
struct Course<'a> {
    end: f64,
    unit: &'a str,
    marks: &'a [Mark],
}

fn write_plot(
    html: &mut String,
    course: &Course<'_>,
    caption: &str,
    lines: &[(&Line, RGBColor)],
) -> Result<(), Box<dyn std::error::Error>> {
    let Course { end, unit, marks } = *course;
    let values = lines.iter().flat_map(|(line, _)| line.iter().flatten()).map(|(_, value)| *value);
    let highest = values.fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..end, 0.0..highest * 1.05)?;
        let style = ("sans-serif", 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(style.pos(Pos::new(HPos::Center, VPos::Center)))
            .y_labels(6)
            .x_label_formatter(&|at| format!("{at:.0} {unit}"))
            .y_label_formatter(&|value| if highest < 5.0 { format!("{value:.1}") } else { format!("{value:.0}") })
            .draw()?;
        for mark in marks.iter().filter(|mark| mark.at_s <= end) {
            chart.draw_series([PathElement::new(vec![(mark.at_s, 0.0), (mark.at_s, highest * 1.05)], MARK)])?;
        }
        for (line, colour) in lines {
            for stretch in line.iter() {
                chart.draw_series(LineSeries::new(stretch.iter().copied(), colour.stroke_width(2)))?;
                // A stretch of one point is no line.
                let alone = stretch.iter().filter(|_| stretch.len() == 1);
                chart.draw_series(alone.map(|point| Circle::new(*point, 2, colour.filled())))?;
            }
        }
        area.present()?;
    }
    for (colour, name) in THEME {
        svg = svg.replace(&format!("\"{colour}\""), &format!("\"var(--{name})\""));
    }
    writeln!(html, "<figure><figcaption>{caption}</figcaption>{svg}</figure>")?;
    Ok(())
}

/// A life in virtual time.
#[derive(Debug)]
pub struct VirtualReport<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was done, in a sentence.
    pub story: &'a str,
    /// What was expected.
    pub verdicts: &'a [Verdict],
    /// What happened in all.
    pub chronicle: &'a Chronicle,
    /// How it stood from time to time, in the order of time.
    pub stages: &'a [Chronicle],
}

impl VirtualReport<'_> {
    /// The whole file.
    ///
    /// # Errors
    /// What the plotting library could not draw.
    pub fn to_html(&self) -> Result<String, String> {
        page(|html| self.write(html))
    }

    fn write(&self, html: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        write_head(html, self.title, self.story)?;
        write_verdicts(html, self.verdicts)?;
        html.push_str("<table>\n");
        for (name, value) in serde_json::to_value(self.chronicle)?.as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(html, "<tr><td>{}</td><td class=\"number\">{value}</td></tr>", name.replace('_', " "))?;
        }
        html.push_str("</table>\n");
        let course = Course { end: days(self.chronicle).max(1.0), unit: "d", marks: &[] };
        let per_day = |count: fn(&Chronicle) -> u64| -> Line {
            let rate = |pair: &[Chronicle]| {
                let [before, after] = pair else { return None };
                let passed = days(after) - days(before);
                (passed > 0.0).then(|| (days(after), count(after).saturating_sub(count(before)) as f64 / passed))
            };
            vec![self.stages.windows(2).filter_map(rate).collect()]
        };
        for (what, line) in [
            ("Publishes accepted per day", per_day(|chronicle| chronicle.accepted)),
            ("Sessions opened per day", per_day(|chronicle| chronicle.sessions)),
            ("Tokens issued per day", per_day(|chronicle| chronicle.tokens)),
        ] {
            write_plot(html, &course, &format!("<span class=\"first\">{what}</span>"), &[(&line, FIRST)])?;
        }
        html.push_str("</body></html>\n");
        Ok(())
    }
}

fn days(chronicle: &Chronicle) -> f64 {
    chronicle.passed_s as f64 / 86_400.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Sample;

    fn html(verdicts: &[Verdict]) -> String {
        let mut record = Record::default();
        record.samples = (0..50)
            .map(|at| Sample {
                at_s: f64::from(at),
                online: 7,
                acknowledged_per_s: f64::from(at % 9),
                publish_p50_ms: (at % 9 > 0).then_some(1.5),
                publish_p99_ms: (at % 9 > 0).then_some(20.0),
            })
            .collect();
        record.marks.push(Mark { at_s: 12.0, what: "the <hub> restarts".to_owned() });
        let summary = Summary { devices: 7, ..Summary::default() };
        let network = NetworkCounts { connections: 20, half_open: 3, ..NetworkCounts::default() };
        let (network, summary, record) = (Some(&network), &summary, &record);
        Report { title: "morning", story: "a & b", verdicts, notes: &[], network, summary, record }.to_html().expect("drawn")
    }

    #[test]
    fn a_report_needs_no_network_and_follows_the_readers_theme() {
        let html = html(&[]);
        assert_eq!(html.matches("<svg").count(), 3, "{html}");
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        // The one address is the name of the SVG language.
        assert_eq!(html.matches("http").count(), html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
        assert!(html.contains("light-dark(") && html.contains("\"var(--first)\"") && html.contains("\"var(--mark)\""));
        for (colour, _) in THEME {
            assert!(!html.contains(colour), "{colour} is no colour of a theme");
        }
    }

    #[test]
    fn a_report_counts_each_fault_of_a_bad_network() {
        let html = html(&[]);
        for (name, count) in [("connections left half-open", 3), ("connections truncated", 0)] {
            let row = format!("<td>{name}</td><td class=\"number\">{count}</td>");
            assert!(html.contains(&row), "{row}: {html}");
        }
    }

    #[test]
    fn where_nothing_was_acknowledged_no_latency_is_drawn() {
        // Each ninth of the 50 samples has no acknowledgement: six stretches, for each of two lines; and two lines without gaps.
        assert_eq!(html(&[]).matches("stroke-width=\"2\"").count(), 2 + 2 * 6);
    }

    #[test]
    fn a_year_is_drawn_by_what_happened_each_day() {
        let stage = |day: u64| Chronicle { passed_s: day * 86_400, accepted: day * 2_000, sessions: day, ..Chronicle::default() };
        let mut stages: Vec<_> = (0..=20).map(stage).collect();
        stages[20].digest = u64::MAX;
        let broken = Verdict { expected: "every invariant holds".to_owned(), found: "seed 7, day 20".to_owned(), met: false };
        let (verdicts, chronicle) = (&[broken], &stages[20]);
        let report = VirtualReport { title: "year", story: "a year", verdicts, chronicle, stages: &stages };
        let html = report.to_html().expect("drawn");
        assert_eq!(html.matches("<svg").count(), 3);
        for shown in [
            "seed 7, day 20",
            "not met",
            "<td>accepted</td><td class=\"number\">40000</td>",
            ">ffffffffffffffff<",
            "\n2000\n",
            "20 d",
        ] {
            assert!(html.contains(shown), "{shown}: {html}");
        }
    }

    #[test]
    fn a_report_says_what_was_not_met_and_nothing_of_it_is_markup() {
        let broken = Verdict { expected: "<b>all</b>".to_owned(), found: "none".to_owned(), met: false };
        let html = html(&[broken]);
        assert!(html.contains("&lt;b&gt;all&lt;/b&gt;") && html.contains("not met"), "{html}");
        assert!(html.contains("the &lt;hub&gt; restarts") && html.contains("a &amp; b"));
    }
}
