# Completion of longshore-agent for fish. Flags come from the program itself, so that they are always its own.
complete -c longshore-agent -f
complete -c longshore-agent -n __fish_use_subcommand -a config -d 'print the effective configuration'
complete -c longshore-agent -n __fish_use_subcommand -a status -d 'tell how the running Agent is'
complete -c longshore-agent -n __fish_use_subcommand -a doctor -d 'check everything that the Agent needs'
complete -c longshore-agent -n __fish_use_subcommand -a join -d 'become a node of a Panel'
complete -c longshore-agent -n __fish_use_subcommand -a policy -d 'explain what no Panel may ask of this node'
complete -c longshore-agent -n '__fish_seen_subcommand_from policy; and not __fish_seen_subcommand_from check reset-epoch' -a check -d 'explain the policy, or judge a spec'
complete -c longshore-agent -n '__fish_seen_subcommand_from policy; and not __fish_seen_subcommand_from check reset-epoch' -a reset-epoch -d 'let an older Panel command this node again'
complete -c longshore-agent -n '__fish_seen_subcommand_from check' -F
complete -c longshore-agent -l config -r -F
complete -c longshore-agent -l json -n '__fish_seen_subcommand_from status doctor'
complete -c longshore-agent -l help -s h
complete -c longshore-agent -l version -s V
for flag in (longshore-agent --help 2>/dev/null | sed -n 's/^  \([A-Z_]*\)  *.*/\1/p' | tr 'A-Z_' 'a-z-')
    complete -c longshore-agent -l $flag -r -F
end
