//! The figure: which share of the mail is there after how long.

use std::fmt::Write as _;

use super::people::{DAY, HOUR, MINUTE, PATIENCE};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 60.0;
/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [&str; 4] = ["#56b4e9", "#009e73", "#e69f00", "#cc79a7"];

fn x(delay: u64) -> f64 {
    let (first, last) = ((MINUTE as f64).ln(), (PATIENCE as f64).ln());
    let part = (((delay.max(MINUTE)) as f64).ln() - first) / (last - first);
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn y(share: f64) -> f64 {
    TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
}

/// One line for each name with the sorted delays of what came, and the number of all mails.
pub fn draw(title: &str, lines: &[(&str, Vec<u64>, usize)]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, percent, end) = (y(share), share * 100.0, WIDTH - RIGHT);
        writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>").unwrap();
        let (x, y) = (LEFT - 8.0, at + 4.0);
        writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{percent} %</text>").unwrap();
    }
    let marks =
        [(MINUTE, "1 min"), (10 * MINUTE, "10 min"), (HOUR, "1 h"), (6 * HOUR, "6 h"), (DAY, "1 d"), (PATIENCE, "5 d")];
    for (delay, name) in marks {
        let (at, low) = (x(delay), HEIGHT - BOTTOM);
        writeln!(svg, "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{low}\" stroke=\"#ddd\"/>").unwrap();
        let below = low + 18.0;
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{name}</text>").unwrap();
    }
    for (number, (name, delays, all)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut path = String::new();
        for step in 0..=100 {
            let (first, last) = ((MINUTE as f64).ln(), (PATIENCE as f64).ln());
            let delay = (first + (last - first) * f64::from(step) / 100.0).exp() as u64;
            let share = delays.partition_point(|of| *of <= delay) as f64 / *all as f64;
            write!(path, "{}{:.1},{:.1}", if step == 0 { "" } else { " " }, x(delay), y(share)).unwrap();
        }
        writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>").unwrap();
        let (left, at) = (LEFT + number as f64 * 175.0, HEIGHT - 14.0);
        let (end, text, base) = (left + 22.0, left + 28.0, at - 4.0);
        writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{end}\" y1=\"{base}\" y2=\"{base}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"
        )
        .unwrap();
        writeln!(svg, "<text x=\"{text}\" y=\"{at}\">{name}</text>").unwrap();
    }
    svg + "</svg>\n"
}
