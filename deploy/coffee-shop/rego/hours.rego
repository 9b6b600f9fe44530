# Opening hours, in UTC: what changes without anybody touching the rules.
package hours

opens := 7

closes := 19
