//! Dates of the Gregorian calendar, for the `Date` header of responses and for log lines.

/// A date of the Gregorian calendar.
pub(crate) struct Date {
    /// 1970 or later.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
}

impl Date {
    /// Returns the date `days` days after 1970-01-01. Years are computed from March, so that the leap day is the last.
    /// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    #[must_use]
    pub(crate) fn of(days: u64) -> Self {
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
        Self { year: era * 400 + year + u64::from(month <= 2), month, day }
    }
}
