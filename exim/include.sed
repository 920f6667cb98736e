# toxmail: puts the files of conf.d into a configuration that is one file. They are in /etc/exim4/toxmail.
0,/^begin /{
/^begin /i\
.include /etc/exim4/toxmail/main/50_toxmail\

}
/^begin routers/a\
\
.include /etc/exim4/toxmail/router/120_toxmail
/^begin transports/a\
\
.include /etc/exim4/toxmail/transport/30_toxmail_lmtp\
.include /etc/exim4/toxmail/transport/30_toxmail_pipe
/^begin retry/a\
\
.include /etc/exim4/toxmail/retry/20_toxmail
