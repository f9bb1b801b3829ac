//! A table of the report.

/// A table whose first column names the rows.
pub(super) struct Table {
    /// Short title.
    pub(super) title: &'static str,
    /// What a reader must know of the columns.
    pub(super) note: String,
    /// Head of the first column, then of the others.
    pub(super) columns: Vec<String>,
    /// Rows in blocks, each with a heading of its own or none.
    pub(super) blocks: Vec<(Option<String>, Vec<Row>)>,
}

/// A row of a table.
pub(super) struct Row {
    /// Its name.
    pub(super) head: String,
    /// Its cells.
    pub(super) cells: Vec<String>,
}
