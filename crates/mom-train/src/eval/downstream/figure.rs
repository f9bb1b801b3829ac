//! Figures of what was judged.

use mom_data::scenes::truth::{Attribute, Judged, Tally};

use crate::telemetry::Figure;

/// Facts of drawn, own and others' documents, so many of each, by attribute, as figures; an attribute that nothing is said of has none.
pub(super) fn of_judged(task: &str, documents: usize, drawn: &Judged, own: &Judged, others: &Judged) -> Vec<Figure> {
    let figure = |measure: &str, of: &dyn Fn(&Judged) -> Tally| {
        Some(Figure {
            task: task.to_owned(),
            measure: measure.to_owned(),
            value: of(drawn).share()?,
            documents: Some(documents),
            n: of(drawn).said,
            ceiling: of(own).share(),
            chance: of(others).share(),
        })
    };
    let by_attribute =
        Attribute::ALL.into_iter().filter_map(|attribute| figure(attribute.name(), &|judged| judged.of(attribute)));
    by_attribute.chain(figure("all", &|judged| judged.all())).collect()
}
