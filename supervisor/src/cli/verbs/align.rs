//! Columns of text: cells that end with a tab are as wide as the widest one in the lines around them.

/// How columns are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// A column is never narrower, its padding included.
    pub width_min: usize,
    /// Blanks after the widest cell.
    pub padding: usize,
}

/// Of tables that `get` prints.
pub const TABLE: Layout = Layout { width_min: 6, padding: 3 };
/// Of what `describe` prints.
pub const DESCRIPTION: Layout = Layout { width_min: 0, padding: 2 };

/// Lays out the columns of a text.
pub fn align(text: &str, layout: Layout) -> String {
    aligned(text, layout, None)
}

/// As [`align`], for the next part of a text: no column is narrower than in the parts before, whose widths are
/// `remembered`.
pub fn align_on(text: &str, layout: Layout, remembered: &mut Vec<usize>) -> String {
    aligned(text, layout, Some(remembered))
}

fn aligned(text: &str, layout: Layout, remembered: Option<&mut Vec<usize>>) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut aligner = Aligner { layout, widths: Vec::new(), remembered, out: String::new() };
    aligner.block(&lines);
    aligner.out
}

struct Aligner<'r> {
    layout: Layout,
    /// Of the columns that the lines at hand have in common.
    widths: Vec<usize>,
    remembered: Option<&'r mut Vec<usize>>,
    out: String,
}

impl Aligner<'_> {
    /// Writes lines that share the columns of `widths`; those that have a further one, in groups.
    fn block(&mut self, lines: &[Vec<&str>]) {
        let column = self.widths.len();
        let has_column = |line: &Vec<&str>| line.len() > column + 1;
        let mut rest = lines;
        while let Some(first) = rest.first() {
            let is_wide = has_column(first);
            let count = rest.iter().take_while(|line| has_column(line) == is_wide).count();
            let (group, after) = rest.split_at(count);
            if is_wide {
                let width = self.width(group, column);
                self.widths.push(width);
                self.block(group);
                self.widths.pop();
            } else {
                group.iter().for_each(|line| self.line(line));
            }
            rest = after;
        }
    }

    fn width(&mut self, lines: &[Vec<&str>], column: usize) -> usize {
        let widest = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let width = (widest.unwrap_or_default() + self.layout.padding).max(self.layout.width_min);
        let Some(remembered) = self.remembered.as_deref_mut() else { return width };
        match remembered.get_mut(column) {
            Some(known) => {
                *known = width.max(*known);
                *known
            }
            None => {
                remembered.push(width);
                width
            }
        }
    }

    fn line(&mut self, cells: &[&str]) {
        for (index, cell) in cells.iter().enumerate() {
            self.out += cell;
            if let (Some(width), true) = (self.widths.get(index), index + 1 < cells.len()) {
                self.out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_are_three_apart_and_the_last_one_ends_where_it_ends() {
        let text = "NAME\tREADY\tAGE\none\t1/1\t5s\nanother\t0/1\t5m3s\n";
        expect![[r#"
            NAME      READY   AGE
            one       1/1     5s
            another   0/1     5m3s
        "#]]
        .assert_eq(&align(text, TABLE));
    }

    #[test]
    fn rows_that_come_later_keep_the_columns() {
        let mut widths = Vec::new();
        assert_eq!(align_on("NAME\tAGE\nsomething\t1s\n", TABLE, &mut widths), "NAME        AGE\nsomething   1s\n");
        assert_eq!(align_on("a\t2s\n", TABLE, &mut widths), "a           2s\n");
    }

    /// A line without the column ends the group whose width it has.
    #[test]
    fn groups_of_lines_have_widths_of_their_own() {
        let text = "Name:\tx\nLabels:\ta=b\nContainers:\n  c:\n    Image:\ti\n    Restart Count:\t0\nQoS:\tBurstable\n";
        expect![[r#"
            Name:    x
            Labels:  a=b
            Containers:
              c:
                Image:          i
                Restart Count:  0
            QoS:                Burstable
        "#]]
        .assert_eq(&align(text, DESCRIPTION));
    }

    #[test]
    fn short_columns_have_the_least_width() {
        assert_eq!(align("a\tb\n", TABLE), "a     b\n");
        assert_eq!(align("\n", TABLE), "\n");
    }
}
