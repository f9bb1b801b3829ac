//! What of some facts is right by others.

use super::super::relations::Relation;
use super::facts::{Attribute, BackgroundFacts, Facts, GroupFacts};

/// Groups of either side that are looked at; those beyond are matched with none.
const MOST_GROUPS: usize = 6;

/// Facts of one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Facts that could be judged.
    pub said: usize,
    /// Those of them that are right.
    pub right: usize,
}

impl Tally {
    fn add(&mut self, is_right: bool) {
        self.said += 1;
        self.right += usize::from(is_right);
    }

    /// The share that is right; `None` of none.
    pub fn share(self) -> Option<f64> {
        (self.said > 0).then(|| self.right as f64 / self.said as f64)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.said += other.said;
        self.right += other.right;
    }
}

/// Facts by attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged([Tally; Attribute::ALL.len()]);

impl Judged {
    /// Of one attribute.
    pub fn of(&self, attribute: Attribute) -> Tally {
        self.0[attribute as usize]
    }

    /// Of all attributes together, each fact counting once.
    pub fn all(&self) -> Tally {
        let mut all = Tally::default();
        self.0.iter().for_each(|tally| all += *tally);
        all
    }

    fn add(&mut self, attribute: Attribute, is_right: bool) {
        self.0[attribute as usize].add(is_right);
    }

    /// Right facts less wrong ones.
    fn lead(&self) -> isize {
        let all = self.all();
        2 * all.right as isize - all.said as isize
    }
}

impl std::ops::AddAssign for Judged {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(tally, other)| *tally += other);
    }
}

/// What of `said` is right by `truth`, attribute by attribute.
///
/// Groups are matched one to one, so that as much as can be is right. By a complete truth every fact is right or wrong, and those of
/// a group that it does not have are wrong. By another one a fact is judged only where that tells of the same thing.
pub fn judge(said: &Facts, truth: &Facts) -> Judged {
    let n = said.groups.len().max(truth.groups.len()).min(MOST_GROUPS);
    let mut best: Option<Judged> = None;
    permutations(n, &mut |of_truth| {
        let group = |index: usize| of_truth.get(index).copied().filter(|&at| at < truth.groups.len());
        let judged = with(said, truth, group);
        if best.is_none_or(|best| judged.lead() > best.lead()) {
            best = Some(judged);
        }
    });
    best.unwrap_or_default()
}

/// The verdict where the groups that are said are these of the truth.
fn with(said: &Facts, truth: &Facts, group: impl Fn(usize) -> Option<usize>) -> Judged {
    let mut judged = Judged::default();
    for (index, of) in said.groups.iter().enumerate() {
        let other = group(index).and_then(|at| truth.groups.get(at));
        let (has, told, right) = by_attribute(of, other);
        for (i, attribute) in [Attribute::Count, Attribute::Colour, Attribute::Shape].into_iter().enumerate() {
            if has[i] && (told[i] || truth.is_complete) {
                judged.add(attribute, right[i]);
            }
        }
    }
    for relation in &said.relations {
        let (subject, object) = (group(relation.subject), group(relation.object));
        let between = |a: usize, b: usize| {
            truth.relations.iter().filter(move |fact| (fact.subject, fact.object) == (a, b)).map(|fact| fact.relation)
        };
        let holds: Vec<Relation> = match (subject, object) {
            (Some(a), Some(b)) => between(a, b).chain(between(b, a).map(converse)).collect(),
            _ => Vec::new(),
        };
        if truth.is_complete || !holds.is_empty() {
            judged.add(Attribute::Relation, holds.contains(&relation.relation));
        }
    }
    background(said.background, truth, &mut judged);
    judged
}

/// Of count, colour and shape: whether it is said, whether the other tells it, and whether they agree.
fn by_attribute(of: &GroupFacts, other: Option<&GroupFacts>) -> ([bool; 3], [bool; 3], [bool; 3]) {
    let has = |group: &GroupFacts| [group.count.is_some(), !group.colours.is_empty(), group.shape.is_some()];
    let Some(other) = other else { return (has(of), [false; 3], [false; 3]) };
    let colour = of.colours.iter().any(|colour| other.colours.contains(colour));
    (has(of), has(other), [of.count == other.count, colour, of.shape == other.shape])
}

fn background(said: Option<BackgroundFacts>, truth: &Facts, judged: &mut Judged) {
    let mut add = |is_right| judged.add(Attribute::Background, is_right);
    match (said, truth.background) {
        (None, _) => {}
        (Some(_), None) if !truth.is_complete => {}
        (
            Some(BackgroundFacts::Land { sky, ground }),
            Some(BackgroundFacts::Land { sky: is_sky, ground: is_ground }),
        ) => {
            // What a truth leaves open is not judged; a complete one leaves nothing open.
            if sky.is_some() && (is_sky.is_some() || truth.is_complete) {
                add(sky == is_sky);
            }
            if ground.is_some() && (is_ground.is_some() || truth.is_complete) {
                add(ground == is_ground);
            }
        }
        (Some(BackgroundFacts::Land { sky, ground }), _) => {
            [sky.is_some(), ground.is_some()].into_iter().filter(|told| *told).for_each(|_| add(false));
        }
        (Some(said), truth) => add(Some(said) == truth),
    }
}

/// The same relation, from the other side.
fn converse(relation: Relation) -> Relation {
    match relation {
        Relation::LeftOf => Relation::RightOf,
        Relation::RightOf => Relation::LeftOf,
        Relation::Above => Relation::Below,
        Relation::Below => Relation::Above,
        Relation::InFront => Relation::Behind,
        Relation::Behind => Relation::InFront,
        Relation::Near => Relation::Near,
    }
}

/// Calls `visit` with every order of 0 to n - 1; with an empty one of none.
fn permutations(n: usize, visit: &mut impl FnMut(&[usize])) {
    fn from(at: usize, order: &mut [usize], visit: &mut impl FnMut(&[usize])) {
        if at == order.len() {
            visit(order);
        }
        for other in at..order.len() {
            order.swap(at, other);
            from(at + 1, order, visit);
            order.swap(at, other);
        }
    }
    from(0, &mut (0..n).collect::<Vec<_>>(), visit);
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds::{Colour, Shape};
    use super::super::facts::RelationFact;
    use super::*;

    fn group(count: usize, colour: Colour, shape: Shape) -> GroupFacts {
        GroupFacts { count: Some(count), colours: vec![colour], shape: Some(shape) }
    }

    fn facts(groups: Vec<GroupFacts>, relation: Relation, is_complete: bool) -> Facts {
        let relations = vec![RelationFact { subject: 0, relation, object: 1 }];
        Facts { groups, relations, background: None, is_complete }
    }

    #[test]
    fn groups_find_their_own_whatever_their_order() {
        let [star, ring] = [group(1, Colour::Red, Shape::Star), group(2, Colour::Blue, Shape::Ring)];
        let truth = facts(vec![ring.clone(), star.clone()], Relation::Above, true);
        let said = facts(vec![star.clone(), ring.clone()], Relation::Below, false);
        let judged = judge(&said, &truth);
        assert_eq!(judged.all(), Tally { said: 7, right: 7 });
        // The colour of one is wrong, and so is the relation.
        let said = facts(vec![group(1, Colour::Teal, Shape::Star), ring.clone()], Relation::LeftOf, false);
        let judged = judge(&said, &truth);
        assert_eq!(judged.of(Attribute::Colour), Tally { said: 2, right: 1 });
        assert_eq!(judged.of(Attribute::Relation), Tally { said: 1, right: 0 });
        assert_eq!(judged.all(), Tally { said: 7, right: 5 });
    }

    #[test]
    fn a_truth_that_is_not_complete_judges_what_it_tells_alone() {
        let [star, ring] = [group(1, Colour::Red, Shape::Star), group(2, Colour::Blue, Shape::Ring)];
        let said = facts(vec![star.clone(), ring], Relation::Below, false);
        let open = Facts { groups: vec![GroupFacts { colours: Vec::new(), ..star }], ..Facts::default() };
        assert_eq!(judge(&said, &open).all(), Tally { said: 2, right: 2 });
        let closed = Facts { is_complete: true, ..open };
        assert_eq!(judge(&said, &closed).all(), Tally { said: 7, right: 2 });
        assert_eq!(judge(&Facts::default(), &closed), Judged::default());
    }
}
