#compdef longshore-agent
# Completion of longshore-agent for zsh. Flags come from the program itself, so that they are always its own.
local -a flags
flags=(${(f)"$(longshore-agent --help 2>/dev/null | sed -n 's/^  \([A-Z_]*\)  *.*/--\1/p' | tr 'A-Z_' 'a-z-')"})
case $words[CURRENT-1] in
--config | --*-file | --*-dir | --*-path) _files ;;
policy) compadd check reset-epoch ;;
check) _files ;;
--log-level) compadd error warn info debug trace ;;
--log-format) compadd auto plain json ;;
*) compadd -- config status doctor join policy --config --json --help --version $flags ;;
esac
