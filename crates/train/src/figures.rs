//! Figures as people read them, the same in the terminal, the log's messages and the pictures.

/// `12.3 MB`: sizes for people, in powers of ten.
pub fn format_bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size < 999.5 {
            let digits = if unit == "bytes" || size >= 99.95 { 0 } else { 1 };
            return format!("{size:.digits$} {unit}");
        }
        size /= 1000.0;
    }
    format!("{size:.1} TB")
}

/// `12,345`: counts with their thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0:07`, `12:34`, `1:02:03`: a length of time.
pub fn clock(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0).round() as u64 } else { return "–".to_owned() };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `9.8e-4`: a learning rate.
pub fn rate(rate: f64) -> String {
    if rate == 0.0 { "0".to_owned() } else { format!("{rate:.1e}") }
}

/// `41.2 %` of a share in 0 … 1.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let sizes = [0, 999, 1000, 99_940, 123_456, 1_500_000, 999_600_000, 2_000_000_000_000];
        let found = sizes.map(format_bytes).join(", ");
        assert_eq!(found, "0 bytes, 999 bytes, 1.0 kB, 99.9 kB, 123 kB, 1.5 MB, 1.0 GB, 2.0 TB");
    }

    #[test]
    fn counts_times_and_rates() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped).join(" "), "0 999 1,000 1,234,567");
        assert_eq!([0.4, 61.0, 3723.0, 360_000.0].map(clock).join(" "), "0:00 1:01 1:02:03 100:00:00");
        assert_eq!(clock(f64::NAN), "–");
        assert_eq!([0.0, 9.8e-4, 1e-5].map(rate).join(" "), "0 9.8e-4 1.0e-5");
        assert_eq!(percent(0.4123), "41.2 %");
    }
}
