//! Sizes and durations as people write them.

use std::time::Duration;

/// Reads `text` as octets: a whole number with B, KiB, MiB, GiB or TiB behind it (no unit: octets).
///
/// # Errors
/// What is wrong, for the user who wrote it.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            return Err(format!(
                "`{text}` is no size: write a whole number and B, KiB, MiB, GiB or TiB, as in \"50 MiB\""
            ));
        }
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is no size: it needs a whole number, as in \"50 MiB\""))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// Reads `text` as a time span: whole numbers each with s, m, h, d or w behind it, as in `300s`, `5d` or `1h30m`.
///
/// # Errors
/// What is wrong, for the user who wrote it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is no time span: write whole numbers with s, m, h, d or w, as in \"90s\" or \"5d\"");
    let mut rest = text.trim();
    let mut seconds = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes().get(digits) {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86_400,
            Some(b'w') => 604_800,
            _ => return Err(wrong()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long"))?;
        rest = rest[digits + 1..].trim_start();
    }
    Ok(Duration::from_secs(seconds))
}

/// `octets` with the largest unit that leaves a whole number.
pub fn show_size(octets: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if octets >= 1 << shift && octets.trailing_zeros() >= shift {
            return format!("{} {unit}", octets >> shift);
        }
    }
    format!("{octets} B")
}

/// `span` with the largest unit that leaves a whole number of it.
pub fn show_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    for (unit, name) in [(86_400, "d"), (3600, "h"), (60, "m")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, octets) in
            [("0", 0), ("512", 512), ("1 B", 1), ("3KiB", 3072), (" 50 MiB ", 50 << 20), ("10 GiB", 10 << 30)]
        {
            assert_eq!(size(text), Ok(octets), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5 MiB", "5 MB", "5 mib", "99999999999999 GiB", "99999999999999999999", "1 é"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(show_size(50 << 20), "50 MiB");
        assert_eq!(show_size(1536), "1536 B");
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("300s", 300), ("5d", 432_000), ("1h30m", 5400), ("1h 30m", 5400), ("2w", 1_209_600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5", "5 s", "-5s", "1.5h", "5x", "5é", "99999999999999999999s", "9999999999999999999w"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "90m");
        assert_eq!(show_duration(Duration::from_secs(59)), "59s");
    }
}
