# Completion of longshore-agent for bash. Flags come from the program itself, so that they are always its own.
_longshore_agent() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
	case $before in
	--config | --*-file | --*-dir | --*-path) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
	policy) mapfile -t COMPREPLY < <(compgen -W "check reset-epoch" -- "$word"); return ;;
	check) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
	--log-level) mapfile -t COMPREPLY < <(compgen -W "error warn info debug trace" -- "$word"); return ;;
	--log-format) mapfile -t COMPREPLY < <(compgen -W "auto plain json" -- "$word"); return ;;
	esac
	local flags
	flags=$(longshore-agent --help 2>/dev/null | sed -n 's/^  \([A-Z_]*\)  *.*/--\1/p' | tr 'A-Z_' 'a-z-')
	mapfile -t COMPREPLY < <(compgen -W "config status doctor join policy --config --json --help --version $flags" -- "$word")
}
complete -F _longshore_agent longshore-agent
