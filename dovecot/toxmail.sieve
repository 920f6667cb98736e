# Drops the second copy of a mail that tox-agent had to hand over twice, since it never heard whether Dovecot took the
# first. To run before the users' own scripts, with their own knowledge of what they have (RFC 7352).
require "duplicate";

# The field is tox-agent's: it removes any that comes with a mail. A mail without it is let through, and not remembered.
# 30 days, in seconds: a contact offers a mail again for 5 days (queue.expire), and longer if he restores a backup.
if duplicate :handle "tox-mail-id" :header "Tox-Mail-Id" :seconds 2592000 {
    discard;
    stop;
}
